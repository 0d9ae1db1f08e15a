// A program whose inputs are all known, for likelihoods and tests.
#pragma once

#include "cuda/products.h"

namespace spx::cuda {

// What is evaluated, where the blocks can read it.
struct Known {
  int64_t count;               // N
  const float* const* inputs;  // [N][places][channels] of each
  const float* code;           // [N][L] U z
  float* params;               // [N][T][P], out
};

// Evaluates the only program of a network, which has no steps. S: where the arenas are.
template <Precision P, Space S>
SPX_DEVICE void evaluate(const Block& block, const NetView& net, const Known& known, Windows windows) {
  const ProgramRow program = net.programs[0];
  const int most = windows.count;
  const int64_t stride = windows.stride;
  const int64_t outputs = static_cast<int64_t>(program.targets) * net.parameters;
  for (int64_t first = static_cast<int64_t>(block.number()) * most; first < known.count;
       first += static_cast<int64_t>(block.blocks()) * most) {
    windows.count = static_cast<int>(known.count - first < most ? known.count - first : most);
    windows.code = known.code + first * net.code;
    windows.code_stride = net.code;
    block.sync();
    for (int w = 0; w < windows.count; ++w) {
      float* arena = windows.arena + w * stride;
      const auto put = [&](int number, int place, int word) {
        const Input input = net.inputs[number];
        const float* from = known.inputs[number] + ((first + w) * input.height * input.width + place) * input.channels;
        for (int c = 0; c < input.channels; ++c) arena[word + c] = from[c];
      };
      for (int i = program.pixel + block.worker(); i < program.pixel_end; i += block.workers()) {
        put(0, net.pixels[i].place, net.pixels[i].row);
      }
      for (int i = program.told + block.worker(); i < program.told_end; i += block.workers()) {
        put(1 + net.told[i].input, net.told[i].place, net.told[i].row);
      }
    }
    run_part<P, S>(block, net, program.part, windows);
    block.sync();
    for (int w = 0; w < windows.count; ++w) {
      const float* arena = windows.arena + w * stride;
      for (int64_t i = block.worker(); i < outputs; i += block.workers()) {
        const int64_t t = i / net.parameters, p = i - t * net.parameters;
        known.params[(first + w) * outputs + i] = arena[net.params[program.params + t] + p];
      }
    }
  }
}

}  // namespace spx::cuda
