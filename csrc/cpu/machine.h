// One thread's memory, and its way to run programs in it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "../sizes.h"
#include "program.h"

namespace spx {

// Runs programs wide, for LANES windows, or narrow, for one of them.
class Machine {
 public:
  explicit Machine(const Model& model) : Machine(model, model.poison ? std::nanf("") : 0.0f) {}

  // Bytes of a thread's memory.
  static size_t bytes(const Model& model) {
    const size_t lanes =
        static_cast<size_t>(model.rows) * (LANES + 1) + static_cast<size_t>(model.code_outputs) * (LANES + 1);
    return sizeof(float) * (lanes + SLACK + static_cast<size_t>(scratch_size(model.outputs)));
  }

  // Where number `row` of a lane is: rows of the wide arena are LANES apart, those of the narrow one 1.
  struct Place {
    float* at;
    int stride;
    float& operator[](int32_t row) const { return at[static_cast<int64_t>(row) * stride]; }
  };
  Place wide(int lane) { return {wide_.data() + lane, LANES}; }
  Place narrow() { return {narrow_.data(), 1}; }

  // U z of every layer, for `count` lanes from `lane` on. z: [Z].
  void set_code(int lane, int count, const float* z) {
    std::fill(uz_.begin(), uz_.end(), 0.0f);
    const size_t outputs = uz_.size();
    for (int i = 0; i < model_.code; ++i) {
      const float* u = model_.code_weights.data() + i * outputs;
      for (size_t o = 0; o < outputs; ++o) uz_[o] += u[o] * z[i];
    }
    for (size_t o = 0; o < outputs; ++o) std::fill_n(code_.data() + o * LANES + lane, count, uz_[o]);
  }

  // part 0 runs what is ahead, 1 + t step t.
  void run_wide(const Program& program, int part) {
    Run run = prepare(program, part);
    run.arena = wide_.data();
    // Steps depend on nothing in bf16 but on partial sums and residuals, which are fp32: so are they.
    if (model_.tile_kernels && part == 0) {
      model_.tile_kernels->wide(run);
    } else {
      model_.kernels->wide(run);
    }
  }

  // Steps of a window that was run ahead with wide kernels take up from lane `ahead`; -1: with narrow ones.
  void run_narrow(const Program& program, int part, int lane, int ahead) {
    Run run = prepare(program, part);
    run.code += lane;
    run.arena = narrow_.data();
    run.ahead = ahead < 0 ? narrow_.data() : wide_.data() + ahead;
    run.ahead_stride = ahead < 0 ? 1 : LANES;
    model_.kernels->narrow(run);
  }

 private:
  Machine(const Model& model, float fill)
      : model_(model),
        wide_(static_cast<size_t>(model.rows) * LANES, fill),
        narrow_(static_cast<size_t>(model.rows) + SLACK, fill),
        code_(static_cast<size_t>(model.code_outputs) * LANES, fill),
        scratch_(scratch_size(model.outputs), fill),
        uz_(model.code_outputs) {}

  Run prepare(const Program& program, int part) {
    Run run{};
    run.begin = program.ops.data() + program.begins[part];
    run.end = program.ops.data() + program.begins[part + 1];
    run.taps = program.taps.data();
    run.alike = program.alike.data() + program.begins[part];
    run.packed = model_.packed.data();
    run.first_tile = program.first_tile.data();
    run.tiles = model_.tiles.data();
    run.pairs = model_.pairs;
    run.weights = model_.weights.data();
    run.bias = model_.bias.data();
    run.code = code_.data();
    run.scratch = scratch_.data();
    run.next = reinterpret_cast<const char*>(model_.packed.data());
    return run;
  }

  const Model& model_;
  AlignedFloats wide_, narrow_, code_, scratch_;
  std::vector<float> uz_;
};

}  // namespace spx
