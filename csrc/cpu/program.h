// A compiled network as the cpp engine runs it; see spxcore/plan/program.py.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace spx {

struct Program {
  std::vector<int32_t> targets;  // [T] window places, in the order of the steps
  std::vector<Op> ops;           // the ahead part's, then each step's
  std::vector<Tap> taps;         //
  std::vector<int32_t> begins;   // ops[begins[0] .. begins[1]) run ahead, [begins[1 + t] .. begins[2 + t]) are step t
  std::vector<int32_t> pixels;   // [k][2] place of Model::inputs[0], arena row
  std::vector<int32_t> conditioning;  // [k][3] r (a resolution) of Model::inputs[1 + r], place, arena row
  std::vector<int32_t> params;        // [T] arena row of each target's mixture parameters
  std::vector<int32_t> first_tile;    // for each tap of pairs its first tile in Model::tiles; bf16 only
  std::vector<int32_t> alike;         // for each op, how many from it on, of its part, have the same weights
  int32_t rows = 0;                   // of the arena

  int steps() const { return static_cast<int>(begins.size()) - 2; }
};

struct WeightBlock {
  int32_t first, inputs, outputs;
};

struct Input {
  int places, channels;
};

// A network ready to run. Immutable once made, so that any number of threads may share it.
struct Model {
  int patch = 0;         // m; of a window's network, like the next one and place_inputs
  int channels = 0;      // C
  int parameters = 0;    // P, of a pixel's mixture: numbers at a place of the output
  int latent = 0;        // Z
  int place_inputs = 0;  // D: 0, 2 (y, x) or 3 + M (y, x, scale, maps)
  std::vector<Input>
      inputs;      // what is given: a window's pixels, then the conditioning at each of the three resolutions
  int places = 0;  // of the output
  const Kernels* kernels = nullptr;
  const TileKernels* tile_kernels = nullptr;  // for what runs ahead in bf16; null in fp32
  std::vector<float> weights;                 // blocks [inputs][outputs], one after the other
  std::vector<float> packed;                  // the same, as kernels->pack left them
  std::vector<char> tiles;            // bf16 only: the blocks that taps of pairs read, as tile_kernels->pack left them
  int pairs = 0;                      // rows of a place's concat_elu
  std::vector<float> bias;            //
  std::vector<float> latent_weights;  // [Z][latent_outputs], every layer's U side by side
  int latent_outputs = 0;
  std::vector<Program> programs;
  int rows = 0;     // of the largest program's arena
  int outputs = 0;  // of the widest op

  // Checks every index of the programs against the arrays and packs the weights. Throws std::invalid_argument.
  void finish(const std::vector<WeightBlock>& blocks);

 private:
  void pack_tiles();
};

// bf16 on the matrix unit, if this machine has one and lends it; else by dot products, where they are faster than fp32;
// else null.
const TileKernels* available_tile_kernels();

// Kernels that this machine can run, the fastest first.
std::vector<const Kernels*> available_kernels();

}  // namespace spx
