// A compiled network as the cpp engine runs it; see spxcore/lower/window.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace spx {

struct Program {
  std::vector<int32_t> targets;  // [T] places of the output, in the order of the steps
  std::vector<Op> ops;           // the ahead part's, then each step's
  std::vector<Tap> taps;         //
  std::vector<int32_t> begins;   // ops[begins[0] .. begins[1]) run ahead, [begins[1 + t] .. begins[2 + t]) are step t
  std::vector<Pixel> pixels;     // places of Model::inputs[0]
  std::vector<Told> told;        // places of Model::inputs[1 + input]
  std::vector<int32_t> params;   // [T] arena row of each target's parameters
  std::vector<int32_t> first_tile;  // for each tap of pairs its first tile in Model::tiles; bf16 only
  std::vector<int32_t> alike;       // for each op, how many from it on, of its part, have the same weights
  int32_t rows = 0;                 // of the arena

  int steps() const { return static_cast<int>(begins.size()) - 2; }
};

// A network ready to run. Immutable once made, so that any number of threads may share it.
struct Model {
  std::vector<Input> inputs;  // what is given: of a network that draws windows the pixels, then what places are told
  int places = 0;             // of the output
  int parameters = 0;         // P, numbers at a place of the output
  const Kernels* kernels = nullptr;
  const TileKernels* tile_kernels = nullptr;  // for what runs ahead in bf16; null in fp32
  bool poison = false;                        // new memory is filled with NaN instead of zeros
  std::vector<float> weights;                 // blocks [inputs][outputs], one after the other
  AlignedFloats packed;                       // the same, as kernels->pack left them
  std::vector<char> tiles;  // bf16 only: the blocks that taps of pairs read, as tile_kernels->pack left them
  int pairs = 0;            // rows of a place's concat_elu; bf16 only
  std::vector<float> bias;
  int code = 0;                     // Z
  int code_outputs = 0;             // L
  std::vector<float> code_weights;  // [Z][L], every layer's U side by side
  std::vector<Block> blocks;        // of `weights`
  std::vector<Program> programs;
  int rows = 0;     // of the largest program's arena
  int outputs = 0;  // of the widest op

  // Checks every index of the programs against the arrays and packs the weights. Throws std::invalid_argument.
  void finish(const std::vector<Block>& blocks);

  // Packs the weights anew, after other numbers were put into `weights`.
  void pack();

 private:
  void pack_tiles();
};

// Throws std::invalid_argument, "name: expected ..., got ...", unless `good`.
void check_that(bool good, const std::string& what, const std::string& expected, int64_t got);

// Checks that every access of a kernel that runs the model's programs is within its arrays.
void check_programs(const Model& model, const std::vector<Block>& blocks);

}  // namespace spx
