// One step of a compiled network: the native side of spxcore/plan/program.py, column for column.
//
// No C++ library and only static functions here: files for several instruction sets include it, and the linker must not
// mix their copies.
#pragma once

#include <stdint.h>

namespace spx {

// Windows that run side by side: a row of the arena is one number of each.
constexpr int LANES = 16;

// Sums a row of numbers at one place, and finishes it or leaves the sum for a later op. Rows are of the arena, -1 if
// unused.
struct Op {
  int32_t bias;            // first of `outputs` numbers in Model::bias
  int32_t latent;          // first of `outputs` rows of U z
  int32_t partial_in;      // start from these rows instead of bias and latent
  int32_t partial_out;     // leave the sum here and do nothing else
  int32_t residual;        // x of the gate x + a sigmoid(b)
  int32_t residual_ahead;  // the same, for an op of a step whose x the ahead part computed
  int32_t raw;             // where the result goes
  int32_t act;             // where concat_elu of it goes, as pairs elu(x_c), elu(-x_c)
  int32_t outputs;         // numbers summed: the result's channels, twice as many before a gate
  int32_t tap_begin, tap_end;
};

static inline bool is_gated(const Op& op) { return op.residual >= 0 || op.residual_ahead >= 0; }
static inline int channels_of(const Op& op) { return is_gated(op) ? op.outputs / 2 : op.outputs; }

struct Tap {
  int32_t source;   // first arena row it reads
  int32_t weights;  // first number of its weight block in Model::weights
  int32_t inputs;   // rows it reads
  int32_t pairs;    // 1 if they are pairs of concat_elu, which bf16 keeps in half as many rows, else 0
};

}  // namespace spx
