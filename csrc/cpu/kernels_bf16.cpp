// bf16 by the dot products of AVX512_BF16 (vdpbf16ps), on processors where they are twice as fast as fp32: AMD since
// Zen 4.
//
// A register holds the pair (elu(x_c), elu(-x_c)) of 16 windows, the broadcast weight both of its weights; everything
// else is as in fp32. Empty, but for the null, where the compiler was not told to target it.
#if defined(__AVX512BF16__)

#include "kernels_impl.h"

namespace spx {
namespace {

constexpr int BYTES = 1024;  // weights are counted in tiles of so many

int tile_count(int inputs, int outputs) { return (inputs / 2 * outputs * 4 + BYTES - 1) / BYTES; }

// A block as wide kernels read it, piece after piece of the outputs, [pairs][piece] each; a pair is 32 bits.
void pack_pairs(const float* from, int inputs, int outputs, void* to) {
  auto* weight = static_cast<uint16_t*>(to);
  const int pieces = pieces_of(outputs);
  for (int piece = 0; piece < pieces; ++piece) {
    const int first = piece_begin(outputs, pieces, piece), end = piece_begin(outputs, pieces, piece + 1);
    for (int i = 0; i < inputs; i += 2) {
      for (int j = first; j < end; ++j) {
        for (int half = 0; half < 2; ++half) {
          const __m128bh rounded = _mm_cvtneps_pbh(_mm_set_ss(from[(i + half) * outputs + j]));
          memcpy(weight++, &rounded, sizeof(uint16_t));
        }
      }
    }
  }
}

void wide_pairs(const Run& run) { wide<true>(run); }

bool ask() { return true; }

double peak_pairs(double seconds) { return 2 * peak<dot>(seconds); }

}  // namespace

const TileKernels* kernels_bf16() {
  static const TileKernels kernels{tile_count, pack_pairs, wide_pairs, ask, peak_pairs};
  return &kernels;
}

}  // namespace spx

#else

#include "kernels.h"

namespace spx {
const TileKernels* kernels_bf16() { return nullptr; }
}  // namespace spx

#endif
