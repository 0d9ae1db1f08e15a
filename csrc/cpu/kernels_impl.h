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

// Outputs summed at once at each of PLACES places: as many sums as fit into 32, or 16, registers beside what is
// multiplied.
#if defined(__AVX512F__)
constexpr int BLOCK = 13;
#elif defined(__AVX2__)
constexpr int BLOCK = 6;
#else
constexpr int BLOCK = 3;
#endif
constexpr int WIDE_PLACES = WIDTH >= 16 ? 2 : 1;
static_assert(WIDE_PLACES <= PLACES, "the scratch has room for PLACES");

// Number of pieces that `outputs` are cut into, of nearly equal size.
inline int pieces_of(int outputs) { return (outputs + BLOCK - 1) / BLOCK; }
inline int piece_begin(int outputs, int pieces, int piece) {
  const int larger = outputs % pieces;
  return outputs / pieces * piece + (piece < larger ? piece : larger);
}
// The first piece of a member's share.
inline int share_begin(int pieces, int member, int members) { return members > 1 ? pieces * member / members : 0; }

void pack(const float* from, int inputs, int outputs, float* to) {
  const int pieces = pieces_of(outputs);
  for (int piece = 0; piece < pieces; ++piece) {
    const int first = piece_begin(outputs, pieces, piece), end = piece_begin(outputs, pieces, piece + 1);
    for (int i = 0; i < inputs; ++i) {
      for (int o = first; o < end; ++o) *to++ = from[i * outputs + o];
    }
  }
}

// Rows of a wide arena.
inline float* row_of(const Run& run, int32_t row) { return run.arena + static_cast<int64_t>(row) * LANES; }

// What the sum of a wide op starts from: rows, or bias and code.
struct Start {
  const float* rows;  // [outputs][LANES], or null
  const float* bias;  // [outputs]
  const float* code;  // [outputs][LANES], or null
};

Start start_of(const Run& run, const Op& op) {
  return {op.partial_in < 0 ? nullptr : row_of(run, op.partial_in), run.bias + op.bias,
          op.code < 0 ? nullptr : run.code + static_cast<int64_t>(op.code) * LANES};
}

// Weights of a tap as wide kernels read them, for outputs from `first` on; PAIRS: of what is read as pairs, in bf16.
template <bool PAIRS>
inline const char* weights_of(const Run& run, int32_t number, int first) {
  const Tap& tap = run.taps[number];
  const int64_t before = static_cast<int64_t>(tap.inputs) * first;
  if (PAIRS && tap.pairs) return run.tiles + static_cast<int64_t>(run.first_tile[number]) * 1024 + before * 2;
  return reinterpret_cast<const char*>(run.packed + tap.weights + before);
}

// sum[p][first + j] = its start + the taps of ops[p], for COUNT places and the SIZE outputs of a piece that begins at
// output `first`. sum[p]: [outputs][LANES]. PAIRS: what is read as pairs is in bf16.
template <int SIZE, int COUNT, bool PAIRS>
void add_taps(const Run& run, const Op* ops, int first, const Start* start, float* const* sum) {
  Vec acc[SIZE][COUNT][REGISTERS];
#pragma GCC unroll 4
  for (int p = 0; p < COUNT; ++p) {
    const float *rows = start[p].rows, *bias = start[p].bias + first, *code = start[p].code;
    if (rows) {
#pragma GCC unroll 32
      for (int j = 0; j < SIZE; ++j) {
        for (int v = 0; v < REGISTERS; ++v) acc[j][p][v] = load(rows + (first + j) * LANES + v * WIDTH);
      }
    } else if (code) {
#pragma GCC unroll 32
      for (int j = 0; j < SIZE; ++j) {
        for (int v = 0; v < REGISTERS; ++v) acc[j][p][v] = all(bias[j]) + load(code + (first + j) * LANES + v * WIDTH);
      }
    } else {
#pragma GCC unroll 32
      for (int j = 0; j < SIZE; ++j) {
        for (int v = 0; v < REGISTERS; ++v) acc[j][p][v] = all(bias[j]);
      }
    }
  }
  const int taps = ops[0].tap_end - ops[0].tap_begin;
  for (int t = 0; t < taps; ++t) {
    const Tap& tap = run.taps[ops[0].tap_begin + t];
    // The weights of a network fill more than the second-level cache. While a tap is added, those that are read after
    // its own are fetched: a line for every row, which is enough.
    const char* next = t + 1 < taps                    ? weights_of<PAIRS>(run, ops[0].tap_begin + t + 1, first)
                       : first + SIZE < ops[0].outputs ? weights_of<PAIRS>(run, ops[0].tap_begin, first + SIZE)
                                                       : run.next;
    const char* weights = weights_of<PAIRS>(run, ops[0].tap_begin + t, first);
    const float* x[COUNT];
    for (int p = 0; p < COUNT; ++p) x[p] = row_of(run, run.taps[ops[p].tap_begin + t].source);
    if constexpr (PAIRS) {
      if (tap.pairs) {
        const int pairs = tap.inputs / 2;
        const char* w = weights;
        for (int64_t i = 0; i < static_cast<int64_t>(pairs) * LANES; i += LANES, w += 4 * SIZE) {
          prefetch(next);
          next += 64;
          Vec xs[COUNT][REGISTERS];
          for (int p = 0; p < COUNT; ++p) {
            for (int v = 0; v < REGISTERS; ++v) xs[p][v] = load(x[p] + i + v * WIDTH);
          }
#pragma GCC unroll 32
          for (int j = 0; j < SIZE; ++j) {
            const Vec weight = all_pairs(w + 4 * j);
            for (int p = 0; p < COUNT; ++p) {
              for (int v = 0; v < REGISTERS; ++v) acc[j][p][v] = dot(xs[p][v], weight, acc[j][p][v]);
            }
          }
        }
        continue;
      }
    }
    const float* w = reinterpret_cast<const float*>(weights);
    for (int64_t i = 0; i < static_cast<int64_t>(tap.inputs) * LANES; i += LANES, w += SIZE) {
      prefetch(next);
      next += 64;
      Vec xs[COUNT][REGISTERS];
      for (int p = 0; p < COUNT; ++p) {
        for (int v = 0; v < REGISTERS; ++v) xs[p][v] = load(x[p] + i + v * WIDTH);
      }
#pragma GCC unroll 32
      for (int j = 0; j < SIZE; ++j) {
        const Vec weight = all(w[j]);
        for (int p = 0; p < COUNT; ++p) {
          for (int v = 0; v < REGISTERS; ++v) acc[j][p][v] = fma(xs[p][v], weight, acc[j][p][v]);
        }
      }
    }
  }
#pragma GCC unroll 32
  for (int j = 0; j < SIZE; ++j) {
    for (int p = 0; p < COUNT; ++p) {
      for (int v = 0; v < REGISTERS; ++v) store(sum[p] + (first + j) * LANES + v * WIDTH, acc[j][p][v]);
    }
  }
}

// add_taps for a size known at run time.
template <int COUNT, bool PAIRS, int SIZE = BLOCK>
void add_taps_of_size(int size, const Run& run, const Op* ops, int first, const Start* start, float* const* sum) {
  if (size == SIZE) return add_taps<SIZE, COUNT, PAIRS>(run, ops, first, start, sum);
  if constexpr (SIZE > 1) add_taps_of_size<COUNT, PAIRS, SIZE - 1>(size, run, ops, first, start, sum);
}

// add_taps for all outputs, or for a member's share of them.
template <int COUNT, bool PAIRS = false>
void add_all_taps(const Run& run, const Op* ops, const Start* start, float* const* sum) {
  const int outputs = ops[0].outputs, pieces = pieces_of(outputs);
  const int begin = share_begin(pieces, run.member, run.members);
  const int end = run.members > 1 ? share_begin(pieces, run.member + 1, run.members) : pieces;
  for (int piece = begin; piece < end; ++piece) {
    const int first = piece_begin(outputs, pieces, piece), size = piece_begin(outputs, pieces, piece + 1) - first;
    add_taps_of_size<COUNT, PAIRS>(size, run, ops, first, start, sum);
  }
}

// Where a wide op's sum is all there is to do: its partial sums, or a result that is read raw only. -1: it has to be
// finished.
inline int32_t only_sum(const Op& op) {
  if (op.partial_out >= 0) return op.partial_out;
  return op.activated < 0 && !is_gated(op) && !has_residual(op) ? op.raw : -1;
}

// A sum after its gate and with its residual x, if it has one.
inline Vec finished(bool gated, const float* sum, const float* gate, bool added, Vec x) {
  const Vec y = load(sum);
  if (gated) return added ? fma(y, sigmoid(load(gate)), x) : y * sigmoid(load(gate));
  return added ? x + y : y;
}
// The same, x being null for an op without one.
inline Vec finished(bool gated, const float* sum, const float* gate, const float* x) {
  return finished(gated, sum, gate, x != nullptr, x ? load(x) : all(0.0f));
}

// y in a form of one number, so any but FORM_PAIRS.
inline Vec seen_as(int32_t /*form*/, Vec y) {
  return maximum(all(0.0f), y);  // FORM_RELU; NaN stays NaN
}

// The gate, and the result in the forms that are read, of the channels [begin, end); in PAIRS concat_elu goes into one
// row, rounded to bf16.
template <bool PAIRS = false>
void finish_wide(const Run& run, const Op& op, const float* sum, int begin, int end) {
  const int channels = channels_of(op);
  const bool gated = is_gated(op), single = op.form != FORM_PAIRS;
  const float* x = has_residual(op) ? row_of(run, op.residual >= 0 ? op.residual : op.residual_ahead) : nullptr;
  float* raw = op.raw < 0 ? nullptr : row_of(run, op.raw);
  float* activated = op.activated < 0 ? nullptr : row_of(run, op.activated);
  const bool of_pairs = x && run.of_pairs && run.of_pairs[&op - run.begin];
  if (op.gate == GATE_TANH) {
    for (int at = begin * LANES; at < end * LANES; at += WIDTH) {
      const Vec a = load(sum + at), b = load(sum + channels * LANES + at);
      if (raw) {
        store(raw + at, a);
        store(raw + channels * LANES + at, b);
      }
      if (activated) store(activated + at, tanh_gate(a, b));
    }
    return;
  }
  for (int at = begin * LANES; at < end * LANES; at += WIDTH) {
    const float* pair = of_pairs ? x + (at / LANES) * 2 * LANES + at % LANES : nullptr;
    const Vec added = pair ? from_elu(load(pair), load(pair + LANES)) : x ? load(x + at) : all(0.0f);
    const Vec y = finished(gated, sum + at, sum + channels * LANES + at, x != nullptr, added);
    if (raw) store(raw + at, y);
    if (activated && single) {
      store(activated + at, seen_as(op.form, y));
    } else if (activated) {
      Vec of_y, of_minus_y;
      concat_elu(y, &of_y, &of_minus_y);
      if constexpr (PAIRS) {
        store_pair(activated + at, of_y, of_minus_y);
      } else {
        float* pair = activated + (at / LANES) * 2 * LANES + at % LANES;
        store(pair, of_y);
        store(pair + LANES, of_minus_y);
      }
    }
  }
}

// COUNT ops whose weights are the same.
template <int COUNT, bool PAIRS = false>
void wide_ops(const Run& run, const Op* ops) {
  float* sum[COUNT];
  Start start[COUNT];
  for (int p = 0; p < COUNT; ++p) {
    start[p] = start_of(run, ops[p]);
    const int32_t rows = only_sum(ops[p]);
    sum[p] = rows < 0 ? run.scratch + p * ops[0].outputs * LANES : row_of(run, rows);
  }
  add_all_taps<COUNT, PAIRS>(run, ops, start, sum);
  for (int p = 0; p < COUNT; ++p) {
    if (only_sum(ops[p]) < 0) finish_wide<PAIRS>(run, ops[p], sum[p], 0, channels_of(ops[p]));
  }
}

// A member's share of an op.
void share_op(const Run& run, const Op& op) {
  const int32_t rows = only_sum(op), channels = channels_of(op);
  float* sum = rows < 0 ? run.scratch : row_of(run, rows);
  const Start start = start_of(run, op);
  add_all_taps<1>(run, &op, &start, &sum);
  run.meet(run.team);
  if (rows >= 0) return;
  finish_wide(run, op, sum, channels * run.member / run.members, channels * (run.member + 1) / run.members);
  run.meet(run.team);
}

template <bool PAIRS>
void wide(const Run& given) {
  Run run = given;
  const int32_t* alike = run.alike;
  for (const Op* op = run.begin; op != run.end;) {
    const int count = *alike >= WIDE_PLACES && run.members <= 1 ? WIDE_PLACES : 1;
    const Op* after = op + count;
    if (after < run.end && after->tap_begin < after->tap_end) {
      const int pieces = pieces_of(after->outputs);
      const int first = piece_begin(after->outputs, pieces, share_begin(pieces, run.member, run.members));
      run.next = weights_of<PAIRS>(run, after->tap_begin, first);
    }
    if (run.members > 1) {
      share_op(run, *op);
    } else if (count == WIDE_PLACES) {
      wide_ops<WIDE_PLACES, PAIRS>(run, op);
    } else {
      wide_ops<1, PAIRS>(run, op);
    }
    op += count;
    alike += count;
  }
}

// Narrow kernels: a register is WIDTH outputs of one window. What is beyond the last output is garbage that nobody
// reads.

// to[p][first + ...] = from[p][first + ...] + the taps of ops[p], for COUNT places and VECTORS registers of outputs.
//
// Each sum is one chain of dependent additions, in the order that wide kernels add in; the chains run side by side.
template <int VECTORS, int COUNT>
void add_taps_narrow(const Run& run, const Op* ops, int first, const float* from, float* to, int room) {
  Vec acc[COUNT][VECTORS];
  for (int p = 0; p < COUNT; ++p) {
    for (int v = 0; v < VECTORS; ++v) acc[p][v] = load(from + p * room + first + v * WIDTH);
  }
  const int outputs = ops[0].outputs, taps = ops[0].tap_end - ops[0].tap_begin;
  for (int t = 0; t < taps; ++t) {
    const Tap& tap = run.taps[ops[0].tap_begin + t];
    const float* x[COUNT];
    for (int p = 0; p < COUNT; ++p) x[p] = run.arena + run.taps[ops[p].tap_begin + t].source;
    const float* w = run.weights + tap.weights + first;
    for (int i = 0; i < tap.inputs; ++i, w += outputs) {
      Vec weights[VECTORS];
      for (int v = 0; v < VECTORS; ++v) weights[v] = load(w + v * WIDTH);
      for (int p = 0; p < COUNT; ++p) {
        const Vec xs = all(x[p][i]);
        for (int v = 0; v < VECTORS; ++v) acc[p][v] = fma(xs, weights[v], acc[p][v]);
      }
    }
  }
  for (int p = 0; p < COUNT; ++p) {
    for (int v = 0; v < VECTORS; ++v) store(to + p * room + first + v * WIDTH, acc[p][v]);
  }
}

void begin_narrow(const Run& run, const Op& op, float* sum) {
  if (op.partial_in >= 0) {
    const float* partial = run.ahead + static_cast<int64_t>(op.partial_in) * run.ahead_stride;
    for (int o = 0; o < op.outputs; ++o) sum[o] = partial[o * run.ahead_stride];
    return;
  }
  for (int o = 0; o < op.outputs; ++o) {
    sum[o] = run.bias[op.bias + o];
    if (op.code >= 0) sum[o] += run.code[(op.code + o) * LANES];
  }
}

// x, y, of_y, of_minus_y: room for a result each.
void finish_narrow(const Run& run, const Op& op, const float* sum, float* x, float* y, float* of_y, float* of_minus_y) {
  if (op.partial_out >= 0) {
    for (int o = 0; o < op.outputs; ++o) run.arena[op.partial_out + o] = sum[o];
    return;
  }
  const int channels = channels_of(op);
  if (op.gate == GATE_TANH) {
    for (int c = 0; c < channels; c += WIDTH) store(y + c, tanh_gate(load(sum + c), load(sum + channels + c)));
    for (int o = 0; op.raw >= 0 && o < op.outputs; ++o) run.arena[op.raw + o] = sum[o];
    for (int c = 0; op.activated >= 0 && c < channels; ++c) run.arena[op.activated + c] = y[c];
    return;
  }
  const bool gated = is_gated(op), added = has_residual(op), single = op.form != FORM_PAIRS;
  if (op.residual >= 0) {
    for (int c = 0; c < channels; ++c) x[c] = run.arena[op.residual + c];
  } else if (op.residual_ahead >= 0) {
    const float* ahead = run.ahead + static_cast<int64_t>(op.residual_ahead) * run.ahead_stride;
    for (int c = 0; c < channels; ++c) x[c] = ahead[c * run.ahead_stride];
  }
  for (int c = 0; c < channels; c += WIDTH) {
    const Vec result = finished(gated, sum + c, sum + channels + c, added ? x + c : nullptr);
    store(y + c, result);
    if (op.activated >= 0 && single) {
      store(of_y + c, seen_as(op.form, result));
    } else if (op.activated >= 0) {
      Vec a, b;
      concat_elu(result, &a, &b);
      store(of_y + c, a);
      store(of_minus_y + c, b);
    }
  }
  if (op.raw >= 0) {
    for (int c = 0; c < channels; ++c) run.arena[op.raw + c] = y[c];
  }
  if (op.activated >= 0 && single) {
    for (int c = 0; c < channels; ++c) run.arena[op.activated + c] = of_y[c];
  } else if (op.activated >= 0) {
    for (int c = 0; c < channels; ++c) {
      run.arena[op.activated + 2 * c] = of_y[c];
      run.arena[op.activated + 2 * c + 1] = of_minus_y[c];
    }
  }
}

// COUNT ops whose weights are the same.
template <int COUNT>
void narrow_ops(const Run& run, const Op* ops) {
  const int outputs = ops[0].outputs, room = outputs + SLACK;
  float *from = run.scratch, *sum = from + PLACES * room, *rest = sum + PLACES * room;
  for (int p = 0; p < COUNT; ++p) begin_narrow(run, ops[p], from + p * room);
  for (int first = 0; first < outputs;) {
    const int vectors = (outputs - first + WIDTH - 1) / WIDTH;
    if (vectors >= 4) {
      add_taps_narrow<4, COUNT>(run, ops, first, from, sum, room);
      first += 4 * WIDTH;
    } else if (vectors >= 2) {
      add_taps_narrow<2, COUNT>(run, ops, first, from, sum, room);
      first += 2 * WIDTH;
    } else {
      add_taps_narrow<1, COUNT>(run, ops, first, from, sum, room);
      first += WIDTH;
    }
  }
  for (int p = 0; p < COUNT; ++p) {
    finish_narrow(run, ops[p], sum + p * room, rest, rest + room, rest + 2 * room, rest + 3 * room);
  }
}

void narrow(const Run& run) {
  const int32_t* alike = run.alike;
  for (const Op* op = run.begin; op != run.end;) {
    int count = 1;
    if (*alike >= 4) {
      narrow_ops<4>(run, op);
      count = 4;
    } else if (*alike >= 2) {
      narrow_ops<2>(run, op);
      count = 2;
    } else {
      narrow_ops<1>(run, op);
    }
    op += count;
    alike += count;
  }
}

}  // namespace
}  // namespace spx

#include "kernels_channels.h"

namespace spx {
namespace {

double seconds_now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Twelve independent chains hide the latency of a multiply-add on every processor of the last ten years.
template <Vec (*MULTIPLY_ADD)(Vec, Vec, Vec)>
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
      for (int c = 0; c < CHAINS; ++c) acc[c] = MULTIPLY_ADD(a, b, acc[c]);
    }
    for (int c = 0; c < CHAINS; ++c) {  // the sums are wanted; a copy, so that they themselves stay in registers
      const Vec sum = acc[c];
      __asm__ volatile("" : : "m"(sum));
    }
    const double now = seconds_now();
    const double rate = static_cast<double>(CHAINS) * TURNS * WIDTH / (now - before);
    if (rate > best) best = rate;
    before = now;
  }
  return best;
}

constexpr Kernels make_kernels(const char* name) {
  return Kernels{name, pack, wide<false>, narrow, channels, peak<fma>};
}

}  // namespace
}  // namespace spx
