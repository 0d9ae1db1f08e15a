// A network lowered to the raster schedule, and how it draws: spxcore/lower/raster.py, name for name.
#pragma once

#include <algorithm>
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

// Where rings and partial sums lie in an arena.
struct Layout {
  std::vector<int32_t> place;     // of each ring, from one place to the next
  std::vector<int64_t> first;     // of each ring
  std::vector<int64_t> partials;  // for each place of each op, as Raster::biases: its partial sums
  int64_t size = 0;
};

// Where numbers of a model stand again, as narrow kernels read them. stage: whose sum they are part of.
struct TiledBlock {
  Block block;
  int32_t stage;
  int64_t to;  // in Raster::tiles
};
struct TiledBias {
  int32_t bias, stage;
  int64_t to;  // in Raster::tile_bias
};
struct BlockInOrder {
  Block block;
  int32_t stage, slice;
  int64_t to;  // in Raster::in_order[slice]
};

struct Raster {
  // Multiply-adds of an op. (Measured on two Zen 5 cores, with the share of its time that two threads take: one image
  // of small networks with 3,400: 89 %, 12,000: 70 %; a group of 16 with 16 x 3,400: 62 %.)
  static constexpr int64_t LEAST_SHARED = 8192;

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
  std::vector<int32_t> numbers;    // of each ring, numbers of a place
  Layout wide;                     // rows of numbers, one of each lane
  Layout narrow;                   // numbers of one image; places and sums fill whole tiles
  int tile = 0;                    // outputs that narrow kernels sum at once
  AlignedFloats tiles;             // weights as they read them
  AlignedFloats tile_bias;         // and biases
  std::vector<int64_t> tap_tiles;  // of each tap, where its block begins in `tiles`
  // Weights of what waits, as steps read them, slice after slice of a result's channels: [inputs of an op's
  // taps][slice], before a gate [inputs][2][slice].
  std::vector<AlignedFloats> in_order;
  std::vector<int64_t> op_in_order;  // of each op that waits, where its weights begin in in_order[s]: [op][s]
  std::vector<int32_t> op_late;      // and the inputs of its taps that wait
  int64_t step_work = 0;             // multiply-adds of a step's op for one image, on average
  std::vector<int64_t> place_bias;   // for each place of each op its bias in `tile_bias`
  std::vector<int32_t> stage_tiles;  // of each stage, tiles of its sum
  std::vector<int32_t> plane_rows;   // of each of `planes`, how many of its rows are read
  std::vector<TiledBlock> tiled_blocks;
  std::vector<TiledBias> tiled_biases;
  std::vector<BlockInOrder> blocks_in_order;

  // Checks every index and places the rings. Throws std::invalid_argument.
  void finish(const std::vector<Block>& blocks);

  // Puts the model's numbers where kernels read them; again after others were put into `model`, which `Model::pack` has
  // packed.
  void fill();

  int ring_width(int ring) const { return rings[ring].left + rings[ring].width + rings[ring].right; }

  // Channels of a stage's result; and in whole tiles.
  int channels(int stage) const { return stages[stage].outputs / halves_of(stages[stage].gate); }
  int padded(int stage) const { return stage_tiles[stage] * tile / halves_of(stages[stage].gate); }
  // A step computes them in slices of sixteens, large enough to hide the latency of additions, or nearly.
  int sixteens(int stage) const { return (channels(stage) + 15) / 16; }
  int slices(int stage) const { return std::max(1, sixteens(stage) / 4); }
  int slice_begin(int stage, int slice) const { return sixteens(stage) * slice / slices(stage) * 16; }

  // Whether threads draw an image, or a group side by side, sooner together than one alone: ops are large enough that
  // they may wait for each other after each.
  bool shares(bool wide) const { return step_work * (wide ? LANES : 1) >= LEAST_SHARED; }

  // Where a place of a ring lies. base: S rows of the image before the one in work.
  int64_t place(const Layout& layout, int ring, int64_t base, int row, int column) const {
    const Ring& r = rings[ring];
    const int64_t y = (row + base * r.rise) % r.depth;
    return layout.first[ring] + (y * ring_width(ring) + r.left + column) * layout.place[ring];
  }

 private:
  void lay_out(Layout& layout, const std::vector<int32_t>& place, const std::vector<int32_t>& sums) const;
  void choose_tile();
  void place_tiles();
  void place_in_order();
  void find_step_work();
};

// How many of so many threads draw so many images.
int workers_of(const Raster& raster, int images, int threads);

// Draws a job on so many threads; `report` as of `draw` in engine.h. planes: one for each of raster.planes.
void draw(const Raster& raster, const Job& job, const std::vector<Planes>& planes, int threads,
          const std::function<bool(int64_t)>& report);

}  // namespace spx
