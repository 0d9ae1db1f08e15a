// Images to draw, by windows or whole: spxcore/lower/job.py, name for name.
#pragma once

#include "heads/head.h"

namespace spx {

// Pointers into memory that Python, or a GPU, keeps. Checked by fields.h.
struct Job {
  int32_t height, width;   // H, W
  uint64_t seed;           //
  uint32_t draw;           // fourth word of the counter
  int32_t count;           // N
  const uint32_t* images;  // [N] image numbers
  const float* code;       // [N][Z], or null
  // What a place is told, besides y and x.
  int32_t map_images, map_count, map_height, map_width, extra_count;
  const float* maps;    // [map_images, N or 1][map_count][map_height][map_width], or null
  const float* extra;   // [extra_count]
  const float* y_axis;  // [H] coordinates of the rows
  const float* x_axis;  // [W]
  // What the network sees of a level.
  int32_t embedding;   // e
  const float* table;  // [levels][e]
  Head head;
  float temperature;
  bool mode;
  // The canvas.
  int32_t given_images;
  const uint8_t* given;  // [given_images, N or 1][H][W], 0 for what is not given, or null
  uint8_t* pixels;       // [N][H][W][C]
  int64_t* finished;     // [N]
  float* params;         // [N][H][W][P], or null
};

// Whether a pixel of image n (from 0) stands already.
SPX_HD static inline bool is_given(const Job& job, int n, int row, int column) {
  const int64_t image = job.given_images > 1 ? n : 0;
  return job.given && job.given[(image * job.height + row) * job.width + column] != 0;
}

}  // namespace spx
