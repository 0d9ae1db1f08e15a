// A compiled network as the kernels read it, made by spxcore/lower/passes.py. csrc/tables.h has the rows.
#pragma once

#include "tables.h"

namespace spx::cuda {

enum class Precision { fp32, tf32, bf16 };

// Precision of the steps. bf16 would round what the next pixel's parameters depend on most, so the steps use tf32.
template <Precision P>
constexpr Precision STEP_PRECISION = P == Precision::bf16 ? Precision::tf32 : P;

constexpr int CHUNK_WORDS = 16;  // most inputs of a chunk
constexpr int TILE_ROWS = 16;    // of a product of a warp
constexpr int TILE_COLUMNS = 8;  //
constexpr int RAW = 256;         // in a chunk's kind: fp32 numbers rather than pairs
constexpr int TILE_WORDS = CHUNK_WORDS * TILE_COLUMNS;

// Pointers to the tables.
struct NetView {
  int32_t side;        // m, of the window
  int32_t pixel;       // numbers of the first input at a place, of a window's C e
  int32_t parameters;  // P, numbers of a target
  int32_t words;       // of a window's arena
  int32_t code;        // L, numbers of U z
  const ProgramRow* programs;
  const Input* inputs;
  const int32_t* parts;  // part p is products[parts[p] : parts[p + 1]]
  const Product* products;
  const Place* places;
  const int32_t* kinds;
  const int32_t* sources;
  const uint32_t* weights;
  const float* bias;
  const Pixel* pixels;
  const Told* told;
  const int32_t* params;  // word of each target's parameters
};

}  // namespace spx::cuda
