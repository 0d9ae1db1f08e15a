// bf16 on the matrix unit of processors with AMX (Intel since Sapphire Rapids): wide ops whose activations and weights
// are rounded to bf16. Sums, biases, residuals and what is read raw stay fp32.
//
// An arena row of concat_elu holds the pair (elu(x_c), elu(-x_c)) of each lane as two bf16 in 32 bits, so the rows of a
// place are a tile as they lie: C [outputs][lanes] += A [outputs][pairs] B [pairs][lanes], a tile being 16 rows of 64
// bytes.
#if defined(__AMX_BF16__) && defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

#include "kernels_impl.h"

namespace spx {
namespace {

constexpr int TILE_ROWS = 16;
constexpr int TILE_BYTES = 1024;
// Tile registers: 0 to 3 of sums, then weights and activations of 16 pairs, and those of the pairs left over. Macros,
// since the compiler puts the names as they stand into its assembly.
#define SPX_WEIGHTS 4
#define SPX_WEIGHTS_REST 5
#define SPX_ACTS 6
#define SPX_ACTS_REST 7
constexpr int SUMS = 4;

inline int tiles_for(int count) { return (count + TILE_ROWS - 1) / TILE_ROWS; }

int tile_count(int inputs, int outputs) { return tiles_for(outputs) * tiles_for(inputs / 2); }

// A block as tiles [tiles of outputs][tiles of pairs], zero beyond the last output and pair.
void pack_tiles(const float* from, int inputs, int outputs, void* to) {
  auto* tile = static_cast<uint16_t*>(to);
  for (int o0 = 0; o0 < outputs; o0 += TILE_ROWS) {
    for (int i0 = 0; i0 < inputs; i0 += 2 * TILE_ROWS) {
      for (int row = 0; row < TILE_ROWS; ++row) {
        for (int i = 0; i < 2 * TILE_ROWS; ++i) {
          const bool inside = o0 + row < outputs && i0 + i < inputs;
          const float weight = inside ? from[(i0 + i) * outputs + o0 + row] : 0.0f;
          const __m128bh rounded = _mm_cvtneps_pbh(_mm_set_ss(weight));
          memcpy(tile++, &rounded, sizeof(uint16_t));
        }
      }
    }
  }
}

// Tells the unit the tiles' shapes, for activations of so many pairs.
void configure(int pairs) {
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int t = 0; t < 8; ++t) config.bytes[t] = 64, config.rows[t] = TILE_ROWS;
  const int rest = pairs % TILE_ROWS;
  if (rest)
    config.bytes[SPX_WEIGHTS_REST] = static_cast<uint16_t>(4 * rest),
    config.rows[SPX_ACTS_REST] = static_cast<uint8_t>(rest);
  _tile_loadconfig(&config);
}

// One tile of pairs: COUNT tiles of sums += weights times activations. next: bytes from a tile of outputs to the next
// one.
template <int COUNT>
inline void multiply(const char* weights, int64_t next) {
  _tile_loadd(SPX_WEIGHTS, weights, 64);
  _tile_dpbf16ps(0, SPX_WEIGHTS, SPX_ACTS);
  if constexpr (COUNT > 1) {
    _tile_loadd(SPX_WEIGHTS, weights + next, 64);
    _tile_dpbf16ps(1, SPX_WEIGHTS, SPX_ACTS);
  }
  if constexpr (COUNT > 2) {
    _tile_loadd(SPX_WEIGHTS, weights + 2 * next, 64);
    _tile_dpbf16ps(2, SPX_WEIGHTS, SPX_ACTS);
  }
  if constexpr (COUNT > 3) {
    _tile_loadd(SPX_WEIGHTS, weights + 3 * next, 64);
    _tile_dpbf16ps(3, SPX_WEIGHTS, SPX_ACTS);
  }
}

// multiply for the pairs left over.
template <int COUNT>
inline void multiply_rest(const char* weights, int64_t next) {
  _tile_loadd(SPX_WEIGHTS_REST, weights, 64);
  _tile_dpbf16ps(0, SPX_WEIGHTS_REST, SPX_ACTS_REST);
  if constexpr (COUNT > 1) {
    _tile_loadd(SPX_WEIGHTS_REST, weights + next, 64);
    _tile_dpbf16ps(1, SPX_WEIGHTS_REST, SPX_ACTS_REST);
  }
  if constexpr (COUNT > 2) {
    _tile_loadd(SPX_WEIGHTS_REST, weights + 2 * next, 64);
    _tile_dpbf16ps(2, SPX_WEIGHTS_REST, SPX_ACTS_REST);
  }
  if constexpr (COUNT > 3) {
    _tile_loadd(SPX_WEIGHTS_REST, weights + 3 * next, 64);
    _tile_dpbf16ps(3, SPX_WEIGHTS_REST, SPX_ACTS_REST);
  }
}

// sum [COUNT * 16][LANES] += the op's taps of concat_elu, for the outputs from tile `first` on.
template <int COUNT>
void add_tiles(const Run& run, const Op& op, int first, int pairs, float* sum) {
  _tile_loadd(0, sum, 64);
  if constexpr (COUNT > 1) _tile_loadd(1, sum + 1 * TILE_ROWS * LANES, 64);
  if constexpr (COUNT > 2) _tile_loadd(2, sum + 2 * TILE_ROWS * LANES, 64);
  if constexpr (COUNT > 3) _tile_loadd(3, sum + 3 * TILE_ROWS * LANES, 64);
  const int full = pairs / TILE_ROWS;
  const int64_t next = static_cast<int64_t>(tiles_for(pairs)) * TILE_BYTES;
  for (int32_t t = op.tap_begin; t < op.tap_end; ++t) {
    if (!run.taps[t].pairs) continue;
    const char* weights = run.tiles + static_cast<int64_t>(run.first_tile[t]) * TILE_BYTES + first * next;
    const float* acts = row_of(run, run.taps[t].source);
    for (int k = 0; k < full; ++k, weights += TILE_BYTES, acts += TILE_ROWS * LANES) {
      _tile_loadd(SPX_ACTS, acts, 64);
      multiply<COUNT>(weights, next);
    }
    if (pairs % TILE_ROWS) {
      _tile_loadd(SPX_ACTS_REST, acts, 64);
      multiply_rest<COUNT>(weights, next);
    }
  }
  _tile_stored(0, sum, 64);
  if constexpr (COUNT > 1) _tile_stored(1, sum + 1 * TILE_ROWS * LANES, 64);
  if constexpr (COUNT > 2) _tile_stored(2, sum + 2 * TILE_ROWS * LANES, 64);
  if constexpr (COUNT > 3) _tile_stored(3, sum + 3 * TILE_ROWS * LANES, 64);
}

void tiled_op(const Run& run, const Op& op) {
  // What is read raw comes after what is read in pairs. The sums end on a tile's border, which the arena has no room
  // for.
  float* sum = run.scratch;
  const Start start = start_of(run, op);
  Op mine = op;
  while (mine.tap_begin < op.tap_end && run.taps[mine.tap_begin].pairs) ++mine.tap_begin;
  add_all_taps<1>(run, &mine, &start, &sum);
  if (mine.tap_begin > op.tap_begin) {
    const int pairs = run.taps[op.tap_begin].inputs / 2, tiles = tiles_for(op.outputs);
    for (int first = 0; first < tiles;) {
      float* from = sum + first * TILE_ROWS * LANES;
      switch (tiles - first < SUMS ? tiles - first : SUMS) {
        case 1:
          add_tiles<1>(run, op, first, pairs, from), first += 1;
          break;
        case 2:
          add_tiles<2>(run, op, first, pairs, from), first += 2;
          break;
        case 3:
          add_tiles<3>(run, op, first, pairs, from), first += 3;
          break;
        default:
          add_tiles<4>(run, op, first, pairs, from), first += 4;
      }
    }
  }
  if (op.partial_out >= 0) {
    memcpy(row_of(run, op.partial_out), sum, sizeof(float) * LANES * op.outputs);
  } else {
    finish_wide<true>(run, op, sum, 0, channels_of(op));
  }
}

void wide_tiled(const Run& run) {
  configure(run.pairs);
  for (const Op* op = run.begin; op != run.end; ++op) tiled_op(run, *op);
  _tile_release();
}

// The kernel lends the unit's registers to those who ask (arch_prctl ARCH_REQ_XCOMP_PERM, state 18); threads inherit
// it.
bool ask() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

}  // namespace

const TileKernels* kernels_amx() {
  static const TileKernels kernels{tile_count, pack_tiles, wide_tiled, ask, nullptr};
  return &kernels;
}

}  // namespace spx

#else

#include "kernels.h"

namespace spx {
const TileKernels* kernels_amx() { return nullptr; }
}  // namespace spx

#endif
