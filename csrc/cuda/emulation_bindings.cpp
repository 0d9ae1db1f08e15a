#include "cuda/emulation_bindings.h"

#include "cuda/emulation.h"
#include "cuda/engine_bindings.h"

namespace spx {

void define_cuda_emulation(pybind11::module_& module) {
  cuda::define_engine<cuda::Emulation>(
      module, "CudaEmulation", "The cuda engine's kernels compiled for the processor, for tests without a GPU.");
}

}  // namespace spx
