// The host build of the kernels: blocks and warps are threads, a warp's lanes a loop. For tests, not for speed.
#pragma once

#include <cstdint>

#include "cuda/engine.h"

namespace spx::cuda {

class Emulation {
 public:
  explicit Emulation(CudaTables tables, Options options);
  void draw(const Job& job, const Report& report) const;
  void evaluate(const Known& known) const;
  Options options() const { return options_; }
  size_t free_bytes() const { return SIZE_MAX; }

 private:
  template <typename Work>
  void in_blocks(Work work) const;

  CudaTables tables_;
  NetView net_;
  Options options_;
};

}  // namespace spx::cuda
