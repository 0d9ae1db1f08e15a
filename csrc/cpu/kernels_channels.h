// Kernels whose lanes are output channels, for one image of the raster schedule: a tile of outputs at several places.
// Included by kernels_impl.h, and compiled as it is.
//
// A sum is one chain of additions, in the order in which wide kernels add: both draw the same bits.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace spx {
namespace {

// Registers of a tile's outputs are summed at so many places at once: as many sums as fit beside what is multiplied.
template <int VECTORS>
constexpr int places_at_once() {
#if defined(__AVX512F__)
  return VECTORS <= 2 ? 12 : 5;
#elif defined(__AVX2__)
  return VECTORS <= 4 ? 3 : 1;
#else
  return 1;
#endif
}

// acc[m][v] += x_m w_v for an input of COUNT places, which lie `step` floats apart. Place m is at base[m / 3]: few
// registers hold all addresses.
template <int VECTORS, int COUNT>
inline void add_input(const float* const* base, int64_t step, const float* w, Vec (*acc)[VECTORS]) {
  Vec weights[VECTORS];
#pragma GCC unroll 20
  for (int v = 0; v < VECTORS; ++v) weights[v] = load(w + v * WIDTH);
#pragma GCC unroll 16
  for (int m = 0; m < COUNT; ++m) {
    const Vec xs = all(base[m / 3][m % 3 * step]);
#pragma GCC unroll 20
    for (int v = 0; v < VECTORS; ++v) acc[m][v] = fma(xs, weights[v], acc[m][v]);
  }
}

// Sums of one tile at COUNT places from `first` on.
template <int VECTORS, int COUNT>
void sum_tile(const ChannelsRun& run, int first, int tile, float* const* sums) {
  Vec acc[COUNT][VECTORS];
  const int at = tile * VECTORS * WIDTH;
#pragma GCC unroll 16
  for (int m = 0; m < COUNT; ++m) {
    const float* start = run.start[first + m] + at;
#pragma GCC unroll 20
    for (int v = 0; v < VECTORS; ++v) {
      acc[m][v] = load(start + v * WIDTH);
      if (run.code) acc[m][v] = acc[m][v] + load(run.code + at + v * WIDTH);
    }
  }
  for (const ChannelsTap* tap = run.taps; tap != run.taps_end; ++tap) {
    constexpr int BASES = (COUNT + 2) / 3;
    const int64_t step = tap->step;
    const float* base[BASES];
    for (int k = 0; k < BASES; ++k) base[k] = tap->source + (first + 3 * k) * step;
    const float* w = tap->weights + tap->inputs * at;
    for (const float* end = w + tap->inputs * VECTORS * WIDTH; w != end; w += VECTORS * WIDTH) {
      add_input<VECTORS, COUNT>(base, step, w, acc);
#pragma GCC unroll 4
      for (int k = 0; k < BASES; ++k) ++base[k];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < COUNT; ++m) {
#pragma GCC unroll 20
    for (int v = 0; v < VECTORS; ++v) store(sums[m] + at + v * WIDTH, acc[m][v]);
  }
}

// sum_tile for a count known at run time.
template <int VECTORS, int COUNT = places_at_once<VECTORS>()>
void sum_tile_at(int count, const ChannelsRun& run, int first, int tile, float* const* sums) {
  if (count == COUNT) return sum_tile<VECTORS, COUNT>(run, first, tile, sums);
  if constexpr (COUNT > 1) sum_tile_at<VECTORS, COUNT - 1>(count, run, first, tile, sums);
}

// Two tiles at one place: the halves before a gate, so that twice as many chains run side by side.
template <int VECTORS>
void sum_two_tiles(const ChannelsRun& run, int place, int tile, int other, float* sum) {
  Vec acc[2][VECTORS];
  const int at[2] = {tile * VECTORS * WIDTH, other * VECTORS * WIDTH};
#pragma GCC unroll 2
  for (int t = 0; t < 2; ++t) {
#pragma GCC unroll 20
    for (int v = 0; v < VECTORS; ++v) {
      acc[t][v] = load(run.start[place] + at[t] + v * WIDTH);
      if (run.code) acc[t][v] = acc[t][v] + load(run.code + at[t] + v * WIDTH);
    }
  }
  for (const ChannelsTap* tap = run.taps; tap != run.taps_end; ++tap) {
    const float *x = tap->source + place * tap->step, *end = x + tap->inputs;
    const float *w = tap->weights + tap->inputs * at[0], *u = tap->weights + tap->inputs * at[1];
    for (; x != end; ++x, w += VECTORS * WIDTH, u += VECTORS * WIDTH) {
      add_input<VECTORS, 1>(&x, 0, w, acc);
      add_input<VECTORS, 1>(&x, 0, u, acc + 1);
    }
  }
#pragma GCC unroll 2
  for (int t = 0; t < 2; ++t) {
#pragma GCC unroll 20
    for (int v = 0; v < VECTORS; ++v) store(sum + at[t] + v * WIDTH, acc[t][v]);
  }
}

// What follows the sum of one place, for the channels [begin, end).
void finish_channels(const ChannelsRun& run, int place, const float* sum, int begin, int end) {
  const int64_t b = static_cast<int64_t>(run.tiles / 2) * run.tile;
  const float* x = run.residual ? run.residual + place * run.residual_step : nullptr;
  float* raw = run.raw ? run.raw + place * run.raw_step : nullptr;
  float* activated = run.activated ? run.activated + place * run.activated_step : nullptr;
  for (int c = begin; c < end; c += WIDTH) {
    Vec added = all(0.0f);
    if (x && run.of_pairs) {
      Vec of_x, of_minus_x;
      load_side_by_side(x + 2 * c, &of_x, &of_minus_x);
      added = from_elu(of_x, of_minus_x);
    } else if (x) {
      added = load(x + c);
    }
    const Vec y = finished(run.gated, sum + c, sum + b + c, x != nullptr, added);
    if (raw) store(raw + c, y);
    if (activated && run.form != FORM_PAIRS) {
      store(activated + c, seen_as(run.form, y));
    } else if (activated) {
      Vec of_y, of_minus_y;
      concat_elu(y, &of_y, &of_minus_y);
      store_side_by_side(activated + 2 * c, of_y, of_minus_y);
    }
  }
}

template <int VECTORS>
void run_channels(const ChannelsRun& run) {
  constexpr int MOST = places_at_once<VECTORS>();
  const int outputs = run.tiles * run.tile, own = run.gated ? run.tiles / 2 : run.tiles;
  for (int first = 0; first < run.count;) {
    const int left = run.count - first;
    const int count = left <= MOST ? left : left < 2 * MOST ? (left + 1) / 2 : MOST;
    float* sums[MOST];
    for (int m = 0; m < count; ++m) sums[m] = run.sum ? run.sum[first + m] : run.scratch + m * outputs;
    for (int tile = run.tile_begin; tile < run.tile_end; ++tile) {
      if (count == 1 && run.gated) {
        sum_two_tiles<VECTORS>(run, first, tile, own + tile, sums[0]);
      } else if (count == 1 && tile + 1 < run.tile_end) {
        sum_two_tiles<VECTORS>(run, first, tile, tile + 1, sums[0]);
        ++tile;
      } else {
        sum_tile_at<VECTORS>(count, run, first, tile, sums);
        if (run.gated) sum_tile_at<VECTORS>(count, run, first, own + tile, sums);
      }
    }
    for (int m = 0; m < count && !run.sum; ++m) {
      finish_channels(run, first + m, sums[m], run.tile_begin * run.tile, run.tile_end * run.tile);
    }
    first += count;
  }
}

void channels(const ChannelsRun& run) {
  if (run.tile == CHANNEL_TILES[0]) return run_channels<CHANNEL_TILES[0] / WIDTH>(run);
  return run_channels<CHANNEL_TILES[1] / WIDTH>(run);
}

}  // namespace
}  // namespace spx
