// The kernels, compiled by kernels_avx512.cpp, kernels_avx2.cpp and kernels_portable.cpp for their instruction sets.
//
// It includes no C++ library: an inline function of it, compiled here for AVX-512, could be linked into plain code.
#pragma once

#include <time.h>

#include "kernels.h"
#include "vec.h"

namespace spx {
namespace {

// Registers that hold one number of every window.
constexpr int REGISTERS = LANES / WIDTH;

// Outputs summed at once: as many as fit into 32, or 16, registers beside the activations and one weight.
#if defined(__AVX512F__)
constexpr int BLOCK = 28;
#elif defined(__AVX2__)
constexpr int BLOCK = 6;
#else
constexpr int BLOCK = 3;
#endif

// Number of pieces that `outputs` are cut into, of nearly equal size.
inline int pieces_of(int outputs) { return (outputs + BLOCK - 1) / BLOCK; }
inline int piece_size(int outputs, int pieces, int piece) { return outputs / pieces + (piece < outputs % pieces); }

void pack(const float* from, int inputs, int outputs, float* to) {
  const int pieces = pieces_of(outputs);
  int first = 0;
  for (int piece = 0; piece < pieces; ++piece) {
    const int size = piece_size(outputs, pieces, piece);
    for (int i = 0; i < inputs; ++i) {
      for (int j = 0; j < size; ++j) *to++ = from[i * outputs + first + j];
    }
    first += size;
  }
}

// sum[j] += the op's taps, for the SIZE outputs of a piece that begins at output `first`. sum: [SIZE][LANES].
template <int SIZE>
void add_taps(const Run& run, const Op& op, int first, float* sum) {
  Vec acc[SIZE][REGISTERS];
#pragma GCC unroll 32
  for (int j = 0; j < SIZE; ++j) {
    for (int v = 0; v < REGISTERS; ++v) acc[j][v] = load(sum + j * LANES + v * WIDTH);
  }
  for (const Tap* tap = run.taps + op.tap_begin; tap != run.taps + op.tap_end; ++tap) {
    const float* x = run.arena + static_cast<int64_t>(tap->source) * LANES;
    const float* w = run.weights + tap->weights + static_cast<int64_t>(tap->inputs) * first;
    for (int i = 0; i < tap->inputs; ++i, x += LANES, w += SIZE) {
      Vec xs[REGISTERS];
      for (int v = 0; v < REGISTERS; ++v) xs[v] = load(x + v * WIDTH);
#pragma GCC unroll 32
      for (int j = 0; j < SIZE; ++j) {
        const Vec weight = all(w[j]);
        for (int v = 0; v < REGISTERS; ++v) acc[j][v] = fma(xs[v], weight, acc[j][v]);
      }
    }
  }
#pragma GCC unroll 32
  for (int j = 0; j < SIZE; ++j) {
    for (int v = 0; v < REGISTERS; ++v) store(sum + j * LANES + v * WIDTH, acc[j][v]);
  }
}

// add_taps for a size known at run time.
template <int SIZE = BLOCK>
void add_taps_of_size(int size, const Run& run, const Op& op, int first, float* sum) {
  if (size == SIZE) return add_taps<SIZE>(run, op, first, sum);
  if constexpr (SIZE > 1) add_taps_of_size<SIZE - 1>(size, run, op, first, sum);
}

void wide_op(const Run& run, const Op& op) {
  float* sum = run.scratch;
  if (op.partial_out >= 0) sum = run.arena + static_cast<int64_t>(op.partial_out) * LANES;
  if (op.partial_in >= 0) {
    sum = run.arena + static_cast<int64_t>(op.partial_in) * LANES;
  } else {
    const float* latent = op.latent < 0 ? nullptr : run.latent + static_cast<int64_t>(op.latent) * LANES;
    for (int o = 0; o < op.outputs; ++o) {
      const Vec bias = all(run.bias[op.bias + o]);
      for (int l = 0; l < LANES; l += WIDTH) {
        store(sum + o * LANES + l, latent ? bias + load(latent + o * LANES + l) : bias);
      }
    }
  }
  if (op.tap_begin != op.tap_end) {
    const int pieces = pieces_of(op.outputs);
    for (int piece = 0, first = 0; piece < pieces; ++piece) {
      const int size = piece_size(op.outputs, pieces, piece);
      add_taps_of_size(size, run, op, first, sum + first * LANES);
      first += size;
    }
  }
  if (op.partial_out >= 0) return;

  const int channels = channels_of(op);
  const int32_t residual = op.residual >= 0 ? op.residual : op.residual_ahead;
  const float* x = run.arena + static_cast<int64_t>(residual) * LANES;
  float* raw = op.raw < 0 ? nullptr : run.arena + static_cast<int64_t>(op.raw) * LANES;
  float* act = op.act < 0 ? nullptr : run.arena + static_cast<int64_t>(op.act) * LANES;
  for (int at = 0; at < channels * LANES; at += WIDTH) {
    Vec y = load(sum + at);
    if (residual >= 0) y = fma(y, sigmoid(load(sum + channels * LANES + at)), load(x + at));
    if (raw) store(raw + at, y);
    if (act) {
      Vec of_y, of_minus_y;
      concat_elu(y, &of_y, &of_minus_y);
      float* pair = act + (at / LANES) * 2 * LANES + at % LANES;
      store(pair, of_y);
      store(pair + LANES, of_minus_y);
    }
  }
}

void wide(const Run& run) {
  for (const Op* op = run.begin; op != run.end; ++op) wide_op(run, *op);
}

// Registers that a piece's outputs take when lanes are outputs.
constexpr int PIECE_REGISTERS = (BLOCK + WIDTH - 1) / WIDTH;

// to[o] = from[o] + the op's taps, for COUNT pieces of equal size; what is beyond a piece's end is overwritten by the
// next.
//
// Each sum is one chain of dependent additions, in the order that wide kernels add in; COUNT chains run side by side.
template <int COUNT>
void add_taps_narrow(const Run& run, const Op& op, int first, int size, const float* from, float* to) {
  Vec acc[COUNT][PIECE_REGISTERS];
  for (int p = 0; p < COUNT; ++p) {
    for (int v = 0; v < PIECE_REGISTERS; ++v) acc[p][v] = load(from + p * size + v * WIDTH);
  }
  for (const Tap* tap = run.taps + op.tap_begin; tap != run.taps + op.tap_end; ++tap) {
    const float* x = run.arena + tap->source;
    const float* w = run.weights + tap->weights + static_cast<int64_t>(tap->inputs) * first;
    const int64_t next = static_cast<int64_t>(tap->inputs) * size;
    for (int i = 0; i < tap->inputs; ++i, w += size) {
      const Vec xs = all(x[i]);
      for (int p = 0; p < COUNT; ++p) {
        for (int v = 0; v < PIECE_REGISTERS; ++v) acc[p][v] = fma(xs, load(w + p * next + v * WIDTH), acc[p][v]);
      }
    }
  }
  for (int p = 0; p < COUNT; ++p) {
    for (int v = 0; v < PIECE_REGISTERS; ++v) store(to + p * size + v * WIDTH, acc[p][v]);
  }
}

void narrow_op(const Run& run, const Op& op) {
  const int outputs = op.outputs, room = outputs + SLACK;
  float *from = run.scratch, *sum = from + room, *x = sum + room, *y = x + room, *of_y = y + room,
        *of_minus_y = of_y + room;
  if (op.partial_in >= 0) {
    const float* partial = run.ahead + static_cast<int64_t>(op.partial_in) * run.ahead_stride;
    for (int o = 0; o < outputs; ++o) from[o] = partial[o * run.ahead_stride];
  } else {
    for (int o = 0; o < outputs; ++o) {
      from[o] = run.bias[op.bias + o];
      if (op.latent >= 0) from[o] += run.latent[(op.latent + o) * LANES];
    }
  }
  const int pieces = pieces_of(outputs);
  for (int piece = 0, first = 0; piece < pieces;) {
    const int size = piece_size(outputs, pieces, piece);
    int same = 1;
    while (piece + same < pieces && same < 4 && piece_size(outputs, pieces, piece + same) == size) ++same;
    if (same == 4) {
      add_taps_narrow<4>(run, op, first, size, from + first, sum + first);
    } else if (same >= 2) {
      same = 2;
      add_taps_narrow<2>(run, op, first, size, from + first, sum + first);
    } else {
      add_taps_narrow<1>(run, op, first, size, from + first, sum + first);
    }
    piece += same;
    first += same * size;
  }
  if (op.partial_out >= 0) {
    for (int o = 0; o < outputs; ++o) run.arena[op.partial_out + o] = sum[o];
    return;
  }

  const int channels = channels_of(op);
  if (op.residual >= 0) {
    for (int c = 0; c < channels; ++c) x[c] = run.arena[op.residual + c];
  } else if (op.residual_ahead >= 0) {
    const float* ahead = run.ahead + static_cast<int64_t>(op.residual_ahead) * run.ahead_stride;
    for (int c = 0; c < channels; ++c) x[c] = ahead[c * run.ahead_stride];
  }
  for (int c = 0; c < channels; c += WIDTH) {
    Vec result = load(sum + c);
    if (is_gated(op)) result = fma(result, sigmoid(load(sum + channels + c)), load(x + c));
    store(y + c, result);
    if (op.act >= 0) {
      Vec a, b;
      concat_elu(result, &a, &b);
      store(of_y + c, a);
      store(of_minus_y + c, b);
    }
  }
  if (op.raw >= 0) {
    for (int c = 0; c < channels; ++c) run.arena[op.raw + c] = y[c];
  }
  if (op.act >= 0) {
    for (int c = 0; c < channels; ++c) {
      run.arena[op.act + 2 * c] = of_y[c];
      run.arena[op.act + 2 * c + 1] = of_minus_y[c];
    }
  }
}

void narrow(const Run& run) {
  for (const Op* op = run.begin; op != run.end; ++op) narrow_op(run, *op);
}

double seconds_now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Twelve independent chains hide the latency of a multiply-add on every processor of the last ten years.
double peak(double seconds) {
  constexpr int CHAINS = 12, TURNS = 100000;
  Vec acc[CHAINS];
  for (int c = 0; c < CHAINS; ++c) acc[c] = all(static_cast<float>(c));
  const Vec a = all(0.999f), b = all(0.001f);
  double best = 0.0;
  const double start = seconds_now();
  double before = start;
  while (before - start < seconds) {
    for (int turn = 0; turn < TURNS; ++turn) {
#pragma GCC unroll 16
      for (int c = 0; c < CHAINS; ++c) acc[c] = fma(acc[c], a, b);
    }
    for (int c = 0; c < CHAINS; ++c) __asm__ volatile("" : : "m"(acc[c]));  // the sums are wanted
    const double now = seconds_now();
    const double rate = static_cast<double>(CHAINS) * TURNS * WIDTH / (now - before);
    if (rate > best) best = rate;
    before = now;
  }
  return best;
}

constexpr Kernels make_kernels(const char* name) { return Kernels{name, BLOCK, pack, wide, narrow, peak}; }

}  // namespace
}  // namespace spx
