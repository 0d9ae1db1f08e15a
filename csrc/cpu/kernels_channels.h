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

// VECTORS registers of the sum of one place from output `first` on, weights in the order in which they are read.
// Weights of one op follow those of another: a fixed distance ahead is nearly always right.
template <int VECTORS>
void sum_place(const ChannelsRun& run, int first, float* sum) {
  constexpr int AHEAD = 512;  // floats
  const int64_t row = static_cast<int64_t>(run.tiles) * run.tile;
  Vec acc[VECTORS];
#pragma GCC unroll 20
  for (int v = 0; v < VECTORS; ++v) {
    acc[v] = load(run.start[0] + first + v * WIDTH);
    if (run.code) acc[v] = acc[v] + load(run.code + first + v * WIDTH);
  }
  const float* w = run.in_order + first;
  for (const ChannelsTap* tap = run.taps; tap != run.taps_end; ++tap) {
    for (const float *x = tap->source + run.place * tap->step, *end = x + tap->inputs; x != end; ++x, w += row) {
      const Vec xs = all(*x);
#pragma GCC unroll 20
      for (int v = 0; v < VECTORS; ++v) {
        if (v * WIDTH % 16 == 0) __builtin_prefetch(w + AHEAD + v * WIDTH, 0, 3);
        acc[v] = fma(xs, load(w + v * WIDTH), acc[v]);
      }
    }
  }
#pragma GCC unroll 20
  for (int v = 0; v < VECTORS; ++v) store(sum + first + v * WIDTH, acc[v]);
}

// The sum of one place: as many outputs at once as registers hold.
void sum_in_order(const ChannelsRun& run, float* sum) {
  const int outputs = run.tiles * run.tile;
  for (int first = 0; first < outputs;) {
    const int left = (outputs - first) / WIDTH;
#if defined(__AVX512F__)
    if (left >= 20) {
      sum_place<20>(run, first, sum);
      first += 20 * WIDTH;
      continue;
    }
#endif
    if (left >= 10) {
      sum_place<10>(run, first, sum);
      first += 10 * WIDTH;
    } else if (left >= 8) {
      sum_place<8>(run, first, sum);
      first += 8 * WIDTH;
    } else if (left >= 4) {
      sum_place<4>(run, first, sum);
      first += 4 * WIDTH;
    } else if (left >= 2) {
      sum_place<2>(run, first, sum);
      first += 2 * WIDTH;
    } else {
      sum_place<1>(run, first, sum);
      first += WIDTH;
    }
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
      sum_tile_at<VECTORS>(count, run, first, tile, sums);
      if (run.gated) sum_tile_at<VECTORS>(count, run, first, own + tile, sums);
    }
    for (int m = 0; m < count && !run.sum; ++m) {
      finish_channels(run, first + m, sums[m], run.tile_begin * run.tile, run.tile_end * run.tile);
    }
    first += count;
  }
}

void channels(const ChannelsRun& run) {
  if (run.in_order) {
    sum_in_order(run, run.scratch);
    return finish_channels(run, run.place, run.scratch, 0, run.tile_end * run.tile);
  }
  if (run.tile == CHANNEL_TILES[0]) return run_channels<CHANNEL_TILES[0] / WIDTH>(run);
  return run_channels<CHANNEL_TILES[1] / WIDTH>(run);
}

}  // namespace
}  // namespace spx
