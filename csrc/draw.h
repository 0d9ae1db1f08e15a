// One pixel's random numbers and its draw from a mixture of discretised logistics.
//
// C++ and nvcc compile this one file, so every native engine draws alike. The numpy twins are spxcore/rng.py and
// spxcore/mixture.py, name for name.
//
// Every function is `static`: a file built for AVX-512 and one built for any x86-64 each keep their own copy. With
// external linkage the linker would keep one of them, perhaps the one that a plain machine cannot run.
#pragma once

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define SPX_HD __host__ __device__
#else
#define SPX_HD
#endif

namespace spx {

constexpr float MIN_LOG_SCALE = -7.0f;

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3).
//
// key = (low half, high half) of the seed. For a pixel, counter [4] = (row, column, image index, draw), draw = 0.
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

// A uniform number of a random word: ((w >> 9) + 1/2) 2^-23. 24 significant bits, so exact in fp32 and never 0 or 1.
SPX_HD static inline float uniform(uint32_t word) { return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f; }

// How many parameters a pixel has for each component of its mixture; 0 for a channel count that is not supported.
// C = 1: logit, mean, log-scale. C = 3: logit, 3 means, 3 log-scales, 3 coefficients.
SPX_HD static inline int parameters_per_component(int channels) { return channels == 1 ? 3 : channels == 3 ? 10 : 0; }

// The nearest level, halves upwards, of a real-valued one, (x + 1) * 127.5; the end bins absorb the tails. NaN gives 0:
// casting it would be undefined.
SPX_HD static inline uint8_t quantise(float level) {
  const float nearest = floorf(level + 0.5f);
  if (!(nearest > 0.0f)) return 0;
  return nearest < 255.0f ? static_cast<uint8_t>(nearest) : 255;
}

// The pixel value in [-1, 1] of a level.
SPX_HD static inline float to_unit(uint8_t level) { return static_cast<float>(level) / 127.5f - 1.0f; }

// The mixture component at the quantile u in (0, 1): the first whose running sum is strictly greater than u times the
// total, or the last one if none is. That strictness is the one tie rule. Logit k is logits[k * stride].
SPX_HD static inline int component(const float* logits, int stride, int components, float u) {
  float top = logits[0];
  for (int k = 1; k < components; ++k) {
    if (logits[k * stride] > top) top = logits[k * stride];
  }
  // The exponentials are computed twice rather than kept: an array indexed at run time would live in a GPU thread's
  // memory, and the same function on the same number gives the same bits.
  float total = 0.0f;
  for (int k = 0; k < components; ++k) total += expf(logits[k * stride] - top);
  const float threshold = u * total;
  float running = 0.0f;
  for (int k = 0; k < components - 1; ++k) {
    running += expf(logits[k * stride] - top);
    if (running > threshold) return k;
  }
  return components - 1;
}

// Draws one pixel from the network's output for it (PixelCNN++, Salimans et al. 2017, section 2.1 and 2.2).
//
// params       parameter p is params[p * stride], in this order, K = components:
//              logits [K], means [C][K], log_scales [C][K], and for C = 3 coeffs [3][K] before tanh
// channels     C, 1 or 3
// words [4]    the pixel's Philox words: 0 draws the component, 1 + c draws channel c
// temperature  scales the logistic's scale, > 0
// map          take the mode of the drawn component instead of a logistic draw
// levels [C]   out
//
// For C = 3 a channel's mean depends on the *quantised* earlier channels, as in the likelihood.
SPX_HD static inline void draw(const float* params, int stride, int channels, int components, const uint32_t words[4],
                               float temperature, bool map, uint8_t* levels) {
  const int k = component(params, stride, components, uniform(words[0]));
  const int next = components * stride;  // from one channel's entry, or one coefficient, to the next one's
  const float* means = params + next + k * stride;
  const float* log_scales = means + channels * next;
  const float* coeffs = log_scales + channels * next;

  float previous[2] = {0.0f, 0.0f};
  for (int c = 0; c < channels; ++c) {
    float x = means[c * next];
    // Green sees red; blue sees red and green.
    if (c == 1) x += tanhf(coeffs[0]) * previous[0];
    if (c == 2) {
      x += tanhf(coeffs[next]) * previous[0];
      x += tanhf(coeffs[2 * next]) * previous[1];
    }
    if (!map) {
      // Not fmaxf: it would turn a NaN into a scale.
      const float log_scale = log_scales[c * next] < MIN_LOG_SCALE ? MIN_LOG_SCALE : log_scales[c * next];
      const float u = uniform(words[1 + c]);
      x += temperature * expf(log_scale) * (logf(u) - log1pf(-u));
    }
    levels[c] = quantise((x + 1.0f) * 127.5f);
    if (c < 2) previous[c] = to_unit(levels[c]);
  }
}

}  // namespace spx
