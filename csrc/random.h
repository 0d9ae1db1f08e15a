// A pixel's random numbers: spxcore/rng.py, name for name.
#pragma once

#include "portable.h"

namespace spx {

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3).
//
// key = (low half, high half) of the seed.
SPX_HD static inline void philox4x32(uint64_t seed, const uint32_t counter[4], uint32_t words[4]) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

// A pixel's random words: counter = (row, column, image, draw).
SPX_HD static inline void pixel_words(uint64_t seed, uint32_t row, uint32_t column, uint32_t image, uint32_t draw,
                                      uint32_t words[4]) {
  const uint32_t counter[4] = {row, column, image, draw};
  philox4x32(seed, counter, words);
}

// A uniform number of a random word: ((w >> 9) + 1/2) 2^-23. 24 significant bits, so exact in fp32 and never 0 or 1.
SPX_HD static inline float uniform(uint32_t word) { return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f; }

}  // namespace spx
