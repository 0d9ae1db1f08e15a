// Rows of the tables that Python fills: spxcore/lower/tables.py, column for column.
//
// No C++ library here: files for several instruction sets include it, and the linker must not mix their copies. Rows of
// an arena are -1 where they are not used.
#pragma once

#include <stdint.h>

namespace spx {

// Of what crosses from Python: these tables, and the fields of jobs and options. spxcore/native.py has the same number.
constexpr int VERSION = 4;

// Sums a row of numbers at one place, and finishes it or leaves the sum for a later op.
struct Op {
  int32_t bias;            // first of `outputs` biases
  int32_t code;            // first of `outputs` rows of U z, or -1
  int32_t partial_in;      // start from these rows instead of bias and code
  int32_t partial_out;     // leave the sum here and do nothing else
  int32_t residual;        // x that is added at the end
  int32_t residual_ahead;  // the same, for an op of a step whose x the ahead part computed
  int32_t raw;             // where the result goes
  int32_t activated;       // where its activation goes, in `form`
  int32_t outputs;         // numbers summed: the result's channels, twice as many before a gate
  int32_t tap_begin, tap_end;
  int32_t gate;  // GATE_NONE, GATE_SIGMOID or GATE_TANH
  int32_t form;  // FORM_PAIRS or FORM_RELU; FORM_GATED after GATE_TANH
};
constexpr int32_t GATE_NONE = 0;
constexpr int32_t GATE_SIGMOID = 1;  // a sigmoid(b), a and b being the halves of the sum
constexpr int32_t GATE_TANH = 2;     // the sum is the result, and tanh(a) sigmoid(b) its activation
constexpr int32_t FORM_PAIRS = 0;    // elu(x_0), elu(-x_0), elu(x_1) ...
constexpr int32_t FORM_RELU = 1;
constexpr int32_t FORM_RAW = 2;    // of a ring: the value as it is
constexpr int32_t FORM_GATED = 3;  // tanh(a) sigmoid(b), half as many numbers

struct Tap {
  int32_t source;   // first arena row it reads
  int32_t weights;  // first number of its weight block
  int32_t inputs;   // rows it reads
  int32_t pairs;    // 1 if they are pairs of concat_elu, which bf16 keeps in half as many rows, else 0
};

// A place of a network's first input, and where it goes.
struct Pixel {
  int32_t place, row;
};

// A place of one of its other inputs, counted from 0.
struct Told {
  int32_t input, place, row;
};

// Places along the axes of an input, and numbers at each.
struct Input {
  int32_t height, width, channels;
};

// Weights [inputs][outputs] from number `first` on.
struct Block {
  int32_t first, inputs, outputs;
};

// The raster schedule: spxcore/lower/raster.py. Rows of places count from S (R // S) rows of the image on, R being the
// row in work and S the period after which all maps repeat.

// Rows of a value, as many as somebody still reads: row y is the (y mod depth)-th.
struct Ring {
  int32_t channels;     // numbers of a place
  int32_t form;         // FORM_RAW, or the activation that is kept
  int32_t width;        // places across
  int32_t left, right;  // columns of zeros on either side
  int32_t depth;
  int32_t rise;  // rows of places that S rows of the image are
};
struct RingRow {
  int32_t ring, row;
};

struct RasterStage {
  int32_t outputs, gate, code;       // as of Op
  int32_t raw, activated, residual;  // rings, or -1
};

// A row of places of a stage, or every so many of them.
struct RasterOp {
  int32_t stage, row;
  int32_t first, step, count;  // column of the first place, columns from one to the next, places
  int32_t bias;                // the bias of place i begins at biases[bias + i]
  int32_t tap_begin, tap_late,
      tap_end;    // taps[tap_begin, tap_late) run ahead, [tap_late, tap_end) wait for pixels of the row
  int32_t waits;  // 1: its places run in steps, from partial sums; 0: wholly ahead
};

struct RasterTap {
  int32_t ring, row;
  int32_t column, step;        // of the source for the op's first place, columns from one place of the op to the next
  int32_t weights;             // first number of its block
  int32_t inside, inside_end;  // places of the op that read something other than zeros
};

struct RasterStep {
  int32_t op, place;
};

// One kind of row of the image: ranges of the ops and of what it loads.
struct Kind {
  int32_t op, op_end, load, load_end;
};

namespace cuda {

// One kind of window. Ranges of the tables; a step's pixels of the current row begin at pixel_current.
struct ProgramRow {
  int32_t part, steps;  // its parts are the ahead part, then the steps
  int32_t pixel, pixel_current, pixel_end;
  int32_t told, told_end;
  int32_t params;   // its targets' parameters are at the words params[params : params + targets]
  int32_t targets;  // one a step; without steps all that comes out of the ahead part
};

// A product [places x windows][inputs] [inputs][columns], and what follows it. Its inputs are chunks of words.
struct Product {
  int32_t place, places;  // places[place : place + places]
  int32_t weights;        // first word, [chunks][tiles][words of a tile]
  int32_t chunks;         //
  int32_t kinds;          // chunk q has kinds[kinds + q] words, plus a flag for fp32 numbers rather than pairs
  int32_t sources;        // place r's chunk q begins at word sources[sources + q * places + r] of the arena; ~word: it
                          // reads zeros, and another place reads that word
  int32_t columns;        // numbers summed at a place; before a gate a_0, b_0, a_1, b_1 ...
  int32_t gate;           // as of Op
  int32_t sync;           // it reads what products before it wrote, or writes what they read
};

// A place that a product computes. First numbers in bias and code, words of the arena; -1 for unused.
struct Place {
  int32_t bias, code;
  int32_t partial_in;   // start from these sums instead of bias and code
  int32_t partial_out;  // leave the sums here and do nothing else
  int32_t residual;     // x that is added at the end
  int32_t raw;          // where the result goes
  int32_t activated;    // where its activation goes
  int32_t form;         // FORM_PAIRS, packed as the precision wants them, or another, fp32 numbers read as raw ones
};

}  // namespace cuda
}  // namespace spx
