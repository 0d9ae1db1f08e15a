// What differs between instruction sets: the arithmetic of one op. One source (kernels_impl.h), compiled once for each.
#pragma once

#include "tables.h"

namespace spx {

// Windows that run side by side: a row of the arena is one number of each.
constexpr int LANES = 16;

static inline int halves_of(int32_t gate) { return gate == GATE_NONE ? 1 : 2; }
static inline bool is_gated(const Op& op) { return op.gate != GATE_NONE; }
// Of what comes out of the gate.
static inline int channels_of(const Op& op) { return is_gated(op) ? op.outputs / 2 : op.outputs; }
static inline int activated_rows(const Op& op) { return (op.form == FORM_PAIRS ? 2 : 1) * channels_of(op); }
static inline int raw_rows(const Op& op) { return op.gate == GATE_TANH ? op.outputs : channels_of(op); }
static inline bool has_residual(const Op& op) { return op.residual >= 0 || op.residual_ahead >= 0; }

// Ops to run, and what they run on.
struct Run {
  const Op* begin;
  const Op* end;
  const int32_t* alike;  // for each op from `begin` on, how many from it on have the same weights; at least 1
  const Tap* taps;
  const int32_t* first_tile;  // for each tap of pairs its first tile of weights; bf16 only, like the next two
  const char* tiles;
  int pairs;             // rows of a place's concat_elu
  const float* packed;   // weights for wide kernels
  const float* weights;  // and as they came, for narrow ones
  const float* bias;
  const float* code;   // [code_outputs][LANES], U z of each lane; a narrow run reads the first lane
  float* arena;        // wide: [rows][LANES], 64-byte aligned; narrow: [rows]
  const float* ahead;  // narrow only: where partial sums are, number r at ahead[r * ahead_stride]
  int ahead_stride;
  const uint8_t* of_pairs;  // for each op, whether its residual is kept as (elu(x), elu(-x)); null: none is. Wide only
  float* scratch;           // scratch_size() floats, 64-byte aligned
  const char* next;         // weights that are read after an op; wide kernels keep it up to date
  // Of a team whose threads run the same ops, and share the outputs of each: which one this is, and what it calls to
  // wait for the others, who have the same scratch. Wide only; members is 0 or 1 for a thread alone.
  int member, members;
  void (*meet)(void* team);
  void* team;
};

// Outputs that kernels with lanes of channels sum at once; a network takes the one that wastes least.
constexpr int CHANNEL_TILES[2] = {32, 80};

// A tap of a row of places, lanes being channels.
struct ChannelsTap {
  const float* source;   // the first place's numbers
  int64_t step;          // floats from one place to the next
  const float* weights;  // [tiles][inputs][tile]
  int64_t inputs;
};

// Places of one stage in a row, lanes being channels. Sums have `tiles` tiles; before a gate the halves begin at tiles.
struct ChannelsRun {
  const ChannelsTap *taps, *taps_end;
  int place, place_end;       // the places that are computed
  int tile, tiles;            // floats of a tile, tiles of a sum
  int begin, end;             // and the channels of the result, in whole tiles, of a step in sixteens
  const float* const* start;  // where the sum of each place starts from
  const float* code;          // U z, added to it, or null
  float* const* sum;          // where the sum of each place is left, and nothing else is done; or null
  bool gated, of_pairs;       // of_pairs: as of Run
  bool tanh;                  // the gate is GATE_TANH
  int channels;               // of what comes out of the gate
  int form;                   // of the activation
  const float* residual;      // the first place's, or null; so are the next two
  float *raw, *activated;
  int64_t residual_step, raw_step, activated_step;
  float* scratch;  // [CHANNEL_PLACES][tiles][tile], 64-byte aligned
  // Of a step, which computes one place: weights of its taps as they are read, [inputs of all taps][end - begin],
  // before a gate [inputs][2][end - begin]; else null.
  const float* in_order;
};
constexpr int CHANNEL_PLACES = 48;  // that a kernel may need scratch for

struct Kernels {
  const char* name;  // "avx512", "avx2", "portable"
  // A weight block [inputs][outputs] as wide kernels read it: piece after piece of the outputs, [inputs][piece] each.
  void (*pack)(const float* from, int inputs, int outputs, float* to);
  // Lanes are windows: LANES windows at once.
  void (*wide)(const Run& run);
  // Lanes are output channels: one window, the same sums in the same order, so the same bits.
  void (*narrow)(const Run& run);
  // Lanes are output channels: places of one image of the raster schedule, the same bits again.
  void (*channels)(const ChannelsRun& run);
  // Multiply-adds a second of one core, doing nothing else for about that long.
  double (*peak)(double seconds);
};

// Places that a kernel sums at once, if their weights are the same: each weight is read once for all of them.
constexpr int PLACES = 4;

// Floats beyond the end of the weights and of each part of the scratch that a kernel may read or write.
constexpr int SLACK = 64;
// The first term is for sums of wide kernels, which on a matrix unit end at a tile's border, the second for narrow
// ones.
static inline int scratch_size(int outputs) {
  return PLACES * (outputs + 16) * LANES + (2 * PLACES + 4) * (outputs + SLACK);
}

// Wide ops in bf16, on a matrix unit or by dot products.
struct TileKernels {
  // Tiles, of 1024 bytes, that hold a weight block of an even number of inputs.
  int (*tile_count)(int inputs, int outputs);
  void (*pack)(const float* from, int inputs, int outputs, void* to);
  void (*wide)(const Run& run);
  // Asks the operating system for the unit, once before its first use; false if it does not give it.
  bool (*ask)();
  // Multiply-adds a second of one core, doing nothing else for about that long; null where nobody has written it (AMX).
  double (*peak)(double seconds);
};

// Null where the compiler cannot target it.
const Kernels* kernels_avx512();
const Kernels* kernels_avx2();
const Kernels* kernels_portable();
const TileKernels* kernels_amx();
const TileKernels* kernels_bf16();

}  // namespace spx
