// A network lowered to the raster schedule, and how it draws: spxcore/lower/raster.py, name for name.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "job.h"
#include "program.h"

namespace spx {

// What an input besides the pixels holds: [images][h][w][C] of its ring.
struct Planes {
  const float* array;
  int64_t images, height;  // images: N, or 1 for all alike
};

struct Raster {
  Model model;  // weights, biases, code and kernels; it has no programs
  int height = 0, width = 0, period = 1;
  int pixels = 0, params = 0;  // rings
  std::vector<int32_t> planes;
  std::vector<Ring> rings;
  std::vector<RasterStage> stages;
  std::vector<Kind> kinds;
  std::vector<int32_t> rows;  // [H] kinds
  std::vector<RasterOp> ops;
  std::vector<RasterTap> taps;
  std::vector<int32_t> biases;
  std::vector<RingRow> loads;
  std::vector<RasterStep> steps;
  std::vector<int32_t> step_begins;  // [kinds][W + 2]

  // Derived by `finish`.
  std::vector<int32_t> numbers;   // of each ring, numbers of a place
  std::vector<int64_t> first;     // of each ring, the row of an arena where it begins
  std::vector<int32_t> partials;  // for each place of each op, as `biases`: the row of its partial sums
  int64_t arena_rows = 0;
  std::vector<int32_t> plane_rows;  // of each of `planes`, how many of its rows are read

  // Checks every index and places the rings. Throws std::invalid_argument.
  void finish(const std::vector<Block>& blocks);

  int ring_width(int ring) const { return rings[ring].left + rings[ring].width + rings[ring].right; }

  // Row of the arena of a place of a ring. base: S rows of the image before the one in work.
  int64_t place(int ring, int64_t base, int row, int column) const {
    const Ring& r = rings[ring];
    const int64_t y = (row + base * r.rise) % r.depth;
    return first[ring] + (y * ring_width(ring) + r.left + column) * numbers[ring];
  }

 private:
  void check() const;
};

// Draws a job on so many threads; `report` as of `draw` in engine.h. planes: one for each of raster.planes.
void draw(const Raster& raster, const Job& job, const std::vector<Planes>& planes, int threads,
          const std::function<bool(int64_t)>& report);

}  // namespace spx
