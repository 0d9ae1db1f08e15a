// A network's tables and the runners' interface, on the host's side: CUDA devices (device.cu) and their stand-in
// (emulation.cpp).
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/evaluate.h"
#include "cuda/window.h"

namespace spx::cuda {

// spxcore.lower.passes.Products.
struct CudaTables {
  int32_t side = 0;  // m of a window; 0 of a network that is evaluated only
  int32_t parameters = 0, words = 0, code = 0;
  Precision precision = Precision::fp32;
  std::vector<ProgramRow> programs;
  std::vector<Input> inputs;
  std::vector<int32_t> parts;
  std::vector<Product> products;
  std::vector<Place> places;
  std::vector<int32_t> kinds;
  std::vector<int32_t> sources;
  std::vector<uint32_t> weights;
  std::vector<float> bias;
  std::vector<Pixel> pixels;
  std::vector<Told> told;
  std::vector<int32_t> params;

  // Checks every index against what it points into: a kernel that has been given these tables reads and writes nothing
  // else. Throws std::invalid_argument.
  void check() const;

  // The tables as a kernel takes them, where `copy(vector)` has put each of them.
  template <typename Copy>
  NetView view(Copy copy) const {
    NetView net{};
    net.side = side, net.pixel = pixel_numbers(), net.parameters = parameters;
    net.words = words, net.code = code;
    net.programs = copy(programs), net.inputs = copy(inputs), net.parts = copy(parts), net.products = copy(products);
    net.places = copy(places), net.kinds = copy(kinds), net.sources = copy(sources), net.weights = copy(weights);
    net.bias = copy(bias), net.pixels = copy(pixels), net.told = copy(told), net.params = copy(params);
    return net;
  }

  // Numbers of the first input at a place.
  int32_t pixel_numbers() const { return inputs.empty() ? 0 : inputs[0].channels; }
  // D, numbers that a window is told at a place; 0 where it is told nothing.
  int32_t told_numbers() const { return inputs.size() > 1 ? inputs[1].channels : 0; }

  // Bytes of a block's memory before the arenas: Scratch and the row's last pixels.
  size_t fixed_bytes() const {
    const size_t recent = sizeof(float) * static_cast<size_t>(side) * static_cast<size_t>(pixel_numbers());
    return (sizeof(Scratch) + recent + 127) / 128 * 128;
  }
};

// How a network is run; 0 lets the runner choose.
struct Options {
  int device = 0;       // which GPU
  int blocks = 0;       // of the grid
  int warps = 0;        // of a block
  int windows = 0;      // that a block runs ahead of its row's drawing
  int patience = 0;     // turns that a row waits for the row above before the drawing is given up
  bool poison = false;  // new arenas hold NaN instead of zeros
};

// Half a minute or more, where a row waits for microseconds.
constexpr int PATIENCE = 1 << 29;

// Throws if a block gave up.
inline void check_stuck(bool stuck) {
  if (stuck) throw std::runtime_error("cuda: a row waited for the row above for too long; this is a mistake in spx");
}

// Rows of image n (from 0) that are complete from the top. drawn(i): pixels drawn of row i, all images' rows counted.
template <typename Drawn>
int64_t finished_rows(const Job& job, size_t n, Drawn drawn) {
  // What Python may have written meanwhile is no index.
  int64_t rows = std::min<int64_t>(std::max<int64_t>(job.finished[n], 0), job.height);
  while (rows < job.height && drawn(n * job.height + rows) == job.width) ++rows;
  return rows;
}

// Called now and then with the number of pixels drawn since the last call; if it returns false the drawing stops soon.
using Report = std::function<bool(int64_t)>;

}  // namespace spx::cuda
