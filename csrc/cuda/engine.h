// A network's tables and the runners' interface, on the host's side: CUDA devices (device.cu) and their stand-in
// (emulation.cpp).
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/sampler.h"

namespace spx::cuda {

// spxcore.plan.passes.Passes, and what else a network is.
struct Tables {
  int32_t patch, channels, parameters, place_inputs, words, latents;
  Precision precision;
  std::vector<Program> programs;
  std::vector<int32_t> parts;
  std::vector<Pass> passes;
  std::vector<Row> rows;
  std::vector<int32_t> kinds;
  std::vector<int32_t> sources;
  std::vector<uint32_t> weights;
  std::vector<float> bias;
  std::vector<Pixel> pixels;
  std::vector<Conditioning> conditioning;
  std::vector<int32_t> params;

  // Checks every index against what it points into: a kernel that has been given these tables reads and writes nothing
  // else. Throws std::invalid_argument.
  void check() const;

  // The tables as a kernel takes them, where `copy(vector)` has put each of them.
  template <typename Copy>
  Network network(Copy copy) const {
    Network net{};
    net.patch = patch, net.channels = channels, net.parameters = parameters, net.place_inputs = place_inputs;
    net.words = words, net.latents = latents;
    net.programs = copy(programs), net.parts = copy(parts), net.passes = copy(passes), net.rows = copy(rows);
    net.kinds = copy(kinds), net.sources = copy(sources), net.weights = copy(weights), net.bias = copy(bias);
    net.pixels = copy(pixels), net.conditioning = copy(conditioning), net.params = copy(params);
    return net;
  }
};

// How a network is run; 0 lets the runner choose.
struct Options {
  int device = 0;    // which GPU
  int blocks = 0;    // of the grid
  int warps = 0;     // of a block
  int windows = 0;   // that a block runs ahead of its row's drawing
  int patience = 0;  // turns that a row waits for the row above before the drawing is given up
};

// Half a minute or more, where a row waits for microseconds.
constexpr int PATIENCE = 1 << 29;

// Throws if a block gave up.
inline void check_stuck(bool stuck) {
  if (stuck) throw std::runtime_error("cuda: a row waited for the row above for too long; this is a mistake in spx");
}

// Called now and then with the number of pixels drawn since the last call; if it returns false the drawing stops soon.
using Report = std::function<bool(int64_t)>;

// Bytes of a block's memory before the arenas: Scratch and the row's last pixels.
inline size_t fixed_bytes(const Tables& tables) {
  const size_t recent = sizeof(float) * static_cast<size_t>(tables.patch) * static_cast<size_t>(tables.channels);
  return (sizeof(Scratch) + recent + 127) / 128 * 128;
}

}  // namespace spx::cuda
