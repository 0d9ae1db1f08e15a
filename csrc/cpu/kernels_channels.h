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
  return VECTORS <= 2 ? 14 : 5;
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

// Taps that are added to the sums of a tile, whether they are the first, and the weights that follow theirs.
struct Part {
  const ChannelsTap *taps, *end;
  bool begins;
  const float* next;
};

// Where the sum of a place is left.
inline float* sum_of(const ChannelsRun& run, int place) {
  return run.sum ? run.sum[place] : run.scratch + (place - run.place) * run.tiles * run.tile;
}

// Adds taps to the sums of one tile at COUNT places from `first` on.
template <int VECTORS, int COUNT>
void sum_tile(const ChannelsRun& run, Part& part, int first, int tile) {
  const float* next = part.next;
  Vec acc[COUNT][VECTORS];
  const int at = tile * VECTORS * WIDTH;
#pragma GCC unroll 16
  for (int m = 0; m < COUNT; ++m) {
    const float* start = (part.begins ? run.start[first + m] : sum_of(run, first + m)) + at;
#pragma GCC unroll 20
    for (int v = 0; v < VECTORS; ++v) {
      acc[m][v] = load(start + v * WIDTH);
      if (run.code && part.begins) acc[m][v] = acc[m][v] + load(run.code + at + v * WIDTH);
    }
  }
  for (const ChannelsTap* tap = part.taps; tap != part.end; ++tap) {
    constexpr int BASES = (COUNT + 2) / 3;
    const int64_t step = tap->step;
    const float* base[BASES];
    for (int k = 0; k < BASES; ++k) base[k] = tap->source + (first + 3 * k) * step;
    const float* w = tap->weights + tap->inputs * at;
    for (const float* end = w + tap->inputs * VECTORS * WIDTH; w != end; w += VECTORS * WIDTH) {
      prefetch(next);
      next += 16;
      add_input<VECTORS, COUNT>(base, step, w, acc);
#pragma GCC unroll 4
      for (int k = 0; k < BASES; ++k) {
        ++base[k];
        __asm__(""
                : "+r"(base[k]));  // a register of its own: the compiler would add all in a vector, and take them out
      }
    }
  }
  part.next = next;
#pragma GCC unroll 16
  for (int m = 0; m < COUNT; ++m) {
    float* sum = sum_of(run, first + m) + at;
#pragma GCC unroll 20
    for (int v = 0; v < VECTORS; ++v) store(sum + v * WIDTH, acc[m][v]);
  }
}

// sum_tile for a count known at run time.
template <int VECTORS, int COUNT = places_at_once<VECTORS>()>
void sum_tile_at(int count, const ChannelsRun& run, Part& part, int first, int tile) {
  if (count == COUNT) return sum_tile<VECTORS, COUNT>(run, part, first, tile);
  if constexpr (COUNT > 1) sum_tile_at<VECTORS, COUNT - 1>(count, run, part, first, tile);
}

// The sums of one tile at all places: so many taps at a time that their weights stay in the second-level cache, where
// those of the next ones are fetched to meanwhile.
template <int VECTORS>
void sum_row(const ChannelsRun& run, int tile) {
  constexpr int64_t MOST_WEIGHTS = 1 << 14;
  constexpr int MOST = places_at_once<VECTORS>();
  Part part{run.taps, run.taps, true, nullptr};
  do {
    int64_t weights = 0;
    while (part.end != run.taps_end && (weights == 0 || weights + part.end->inputs * run.tile <= MOST_WEIGHTS)) {
      weights += part.end++->inputs * run.tile;
    }
    const bool last = part.end == run.taps_end;
    const ChannelsTap* following = last ? run.taps : part.end;
    part.next = following->weights + following->inputs * run.tile * (last ? tile + 1 : tile);
    for (int first = run.place; first < run.place_end;) {
      const int left = run.place_end - first;
      const int count = left <= MOST ? left : left < 2 * MOST ? (left + 1) / 2 : MOST;
      sum_tile_at<VECTORS>(count, run, part, first, tile);
      first += count;
    }
    part = {part.end, part.end, false, nullptr};
  } while (part.taps != run.taps_end);
}

// Registers of the sum of one place: VECTORS from channel `first` of the slice on, of the half of a gate `half` and
// HALVES - 1 more. Weights are in the order in which they are read, those of one op after those of another, so a fixed
// distance ahead is nearly always right.
template <int VECTORS, int HALVES>
void sum_place(const ChannelsRun& run, int first, int half, float* sum) {
  constexpr int AHEAD = 2048;  // floats
  const int64_t padded = run.gated ? run.tiles / 2 * run.tile : 0;
  const int64_t at = run.begin + first + half * padded;
  Vec acc[HALVES][VECTORS];
#pragma GCC unroll 2
  for (int h = 0; h < HALVES; ++h) {
#pragma GCC unroll 10
    for (int v = 0; v < VECTORS; ++v) {
      acc[h][v] = load(run.start[0] + at + h * padded + v * WIDTH);
      if (run.code) acc[h][v] = acc[h][v] + load(run.code + at + h * padded + v * WIDTH);
    }
  }
  const int64_t width = run.end - run.begin, row = run.gated ? 2 * width : width;
  const float* w = run.in_order + first + half * width;
  for (const ChannelsTap* tap = run.taps; tap != run.taps_end; ++tap) {
    for (const float *x = tap->source + run.place * tap->step, *end = x + tap->inputs; x != end; ++x, w += row) {
      const Vec xs = all(*x);
#pragma GCC unroll 2
      for (int h = 0; h < HALVES; ++h) {
#pragma GCC unroll 10
        for (int v = 0; v < VECTORS; ++v) {
          const float* from = w + h * width + v * WIDTH;
          if (v * WIDTH % 16 == 0) __builtin_prefetch(from + AHEAD, 0, 3);
          acc[h][v] = fma(xs, load(from), acc[h][v]);
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int h = 0; h < HALVES; ++h) {
#pragma GCC unroll 10
    for (int v = 0; v < VECTORS; ++v) store(sum + at + h * padded + v * WIDTH, acc[h][v]);
  }
}

// sum_place for a number of registers known at run time.
template <int HALVES, int VECTORS = 10 / HALVES>
void sum_place_of(int vectors, const ChannelsRun& run, int first, int half, float* sum) {
  if (vectors == VECTORS) return sum_place<VECTORS, HALVES>(run, first, half, sum);
  if constexpr (VECTORS > 1) sum_place_of<HALVES, VECTORS - 1>(vectors, run, first, half, sum);
}

// The sum of one place: as many outputs at once as registers hold, beside what is multiplied.
void sum_in_order(const ChannelsRun& run, float* sum) {
  const int vectors = (run.end - run.begin) / WIDTH;
  if (run.gated && vectors <= 5) return sum_place_of<2>(vectors, run, 0, 0, sum);
  for (int half = 0; half < (run.gated ? 2 : 1); ++half) {
    for (int first = 0; first < vectors; first += 10) {
      sum_place_of<1>(vectors - first < 10 ? vectors - first : 10, run, first * WIDTH, half, sum);
    }
  }
}

// The first numbers of a register: what follows them may be another thread's.
inline void store_some(const float* from, int count, float* to) {
  for (int i = 0; i < WIDTH && i < count; ++i) to[i] = from[i];
}

// What follows the sum of one place, for the channels [begin, end).
void finish_channels(const ChannelsRun& run, int place, const float* sum, int begin, int end) {
  const int64_t b = static_cast<int64_t>(run.tiles / 2) * run.tile;
  const float* x = run.residual ? run.residual + place * run.residual_step : nullptr;
  float* raw = run.raw ? run.raw + place * run.raw_step : nullptr;
  float* activated = run.activated ? run.activated + place * run.activated_step : nullptr;
  if (run.tanh) {
    for (int c = begin; c < end; c += WIDTH) {
      if (raw) {
        store_some(sum + c, run.channels - c, raw + c);
        store_some(sum + b + c, run.channels - c, raw + run.channels + c);
      }
      if (activated) store(activated + c, tanh_gate(load(sum + c), load(sum + b + c)));
    }
    return;
  }
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
  if (run.place_end - run.place > CHANNEL_PLACES) {
    for (ChannelsRun some = run; some.place < run.place_end; some.place = some.place_end) {
      some.place_end = run.place_end - some.place > CHANNEL_PLACES ? some.place + CHANNEL_PLACES : run.place_end;
      run_channels<VECTORS>(some);
    }
    return;
  }
  for (int tile = run.begin / run.tile; tile < run.end / run.tile; ++tile) {
    sum_row<VECTORS>(run, tile);
    if (run.gated) sum_row<VECTORS>(run, run.tiles / 2 + tile);
  }
  if (run.sum) return;
  for (int place = run.place; place < run.place_end; ++place) {
    finish_channels(run, place, sum_of(run, place), run.begin, run.end);
  }
}

void channels(const ChannelsRun& run) {
  if (run.in_order) {
    sum_in_order(run, run.scratch);
    return finish_channels(run, run.place, run.scratch, run.begin, run.end);
  }
  if (run.tile == CHANNEL_TILES[0]) return run_channels<CHANNEL_TILES[0] / WIDTH>(run);
  return run_channels<CHANNEL_TILES[1] / WIDTH>(run);
}

}  // namespace
}  // namespace spx
