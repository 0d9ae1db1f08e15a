// The host build of the kernels: blocks and warps are threads, a warp's lanes a loop. For tests, not for speed.
#pragma once

#include "cuda/engine.h"

namespace spx::cuda {

class Emulation {
 public:
  explicit Emulation(Tables tables, Options options);
  void sample(const Job& job, const Report& report) const;
  void evaluate(const Known& known) const;
  Options options() const { return options_; }

 private:
  template <typename Work>
  void in_blocks(Work work) const;

  Tables tables_;
  Network net_;
  Options options_;
};

}  // namespace spx::cuda
