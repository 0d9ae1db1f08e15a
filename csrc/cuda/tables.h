// A compiled network as the kernels read it: spxcore/plan/passes.py, column for column.
#pragma once

#include <stdint.h>

namespace spx::cuda {

enum class Precision { fp32, tf32, bf16 };

// Of the steps; what runs ahead has the network's own.
template <Precision P>
constexpr Precision STEP_PRECISION = P == Precision::bf16 ? Precision::tf32 : P;

constexpr int CHUNK = 16;        // words of inputs
constexpr int TILE_ROWS = 16;    // of a product of a warp
constexpr int TILE_COLUMNS = 8;  //
constexpr int TILE_WORDS = CHUNK * TILE_COLUMNS;

// One kind of window. Ranges of the tables; a step's pixels of the current row begin at pixel_current.
struct Program {
  int32_t part, steps;
  int32_t pixel, pixel_current, pixel_end;
  int32_t conditioning, conditioning_end;
  int32_t params;
};

// A product [places x windows][inputs] [inputs][columns], and what follows it. Its inputs are chunks of up to CHUNK
// words.
struct Pass {
  int32_t row, rows;  // its places are rows[row : row + rows]
  int32_t weights;    // first word, [chunks][tiles][TILE_WORDS]
  int32_t chunks;     //
  int32_t kinds;      // chunk q has kinds[kinds + q] words, plus RAW for fp32 numbers rather than activations
  int32_t sources;    // place r's chunk q begins at word sources[sources + q * rows + r] of the arena, -1 for zeros
  int32_t columns;    // numbers summed at a place; before a gate a_0, b_0, a_1, b_1 ...
  int32_t gated;      // x + a sigmoid(b)
  int32_t sync;       // it reads what passes before it wrote, or writes what they read
};
constexpr int RAW = 256;

// A place. First numbers in bias and latent, words of the arena; -1 for unused.
struct Row {
  int32_t bias, latent;
  int32_t partial_in;   // start from these sums instead of bias and latent
  int32_t partial_out;  // leave the sums here and do nothing else
  int32_t residual;     // x of the gate
  int32_t raw;          // where the result goes
  int32_t act;          // where concat_elu of it goes
};

struct Pixel {
  int32_t place, word;
};
struct Conditioning {
  int32_t resolution, place, word;
};

// Pointers to the tables.
struct Network {
  int32_t patch;         // m
  int32_t channels;      // C
  int32_t parameters;    // P, of a pixel's mixture
  int32_t place_inputs;  // D: 0, 2 (y, x) or 3 + M (y, x, scale, maps)
  int32_t words;         // of a window's arena
  int32_t latents;       // L, numbers of U z
  const Program* programs;
  const int32_t* parts;  // part p is passes[parts[p] : parts[p + 1]]
  const Pass* passes;
  const Row* rows;
  const int32_t* kinds;
  const int32_t* sources;
  const uint32_t* weights;
  const float* bias;
  const Pixel* pixels;
  const Conditioning* conditioning;
  const int32_t* params;  // word of each target's mixture parameters
};

}  // namespace spx::cuda
