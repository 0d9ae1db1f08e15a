// Draws images with a compiled network: which windows run side by side, on which thread, and when.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "program.h"

namespace spx {

// Images to draw; spxcore.engines.Job with what is derived from it.
struct ImageJob {
  int height, width;  // H, W
  uint64_t seed;
  std::vector<uint32_t> images;  // [N] image numbers
  const float* z;                // [N][Z], or null
  const float* maps;             // [N][M][map_height][map_width], or null
  int map_height, map_width;
  const float* y_axis;  // [H] coordinates of the rows
  const float* x_axis;  // [W]
  float scale;          // the scale input
  float temperature;
  bool map;
  uint8_t* out;  // [N][H][W][C]
};

// Draws a job on so many threads. `report` is called on the calling thread now and then with the number of pixels drawn
// since the last call; if it returns false the drawing stops soon, and so does the function.
void sample(const Model& model, const ImageJob& job, int threads, const std::function<bool(int64_t)>& report);

// Runs one program on windows (or images) whose pixels are known.
//
// inputs  [N][places][channels] for each of model.inputs
// z       [N][Z], or null
// narrow  with the kernels for one window instead of those for LANES
// params  out, [N][T][P]
void evaluate(const Model& model, const Program& program, int64_t windows, const std::vector<const float*>& inputs,
              const float* z, bool narrow, int threads, float* params);

}  // namespace spx
