// The Python module spxcore._cuda. The host's compiler builds this file, nvcc only the kernels: pybind11's templates
// are nothing for nvcc. The CUDA runtime is linked statically, so the module loads on a machine without a driver.
#include <pybind11/pybind11.h>

#include "cuda/device.h"
#include "cuda/engine_bindings.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict d;
  d["version"] = SPX_VERSION;
  d["compiler"] = SPX_CUDA_COMPILER;
  d["flags"] = SPX_CUDA_FLAGS;
  d["architectures"] = SPX_CUDA_ARCHITECTURES;
  return d;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "spx on NVIDIA GPUs. Every CUDA failure is a RuntimeError with CUDA's own message.";
  m.attr("VERSION") = spx::VERSION;
  spx::register_tables();
  m.def("device_count", &spx::cuda::device_count, "How many GPUs there are; 0 without a driver.");
  m.def("compute_capability", &spx::cuda::compute_capability, py::arg("device"),
        "80 for an A100, 90 for an H100 or H200.");
  py::register_local_exception<spx::cuda::DoesNotFit>(m, "DoesNotFit", PyExc_MemoryError);
  spx::cuda::define_engine<spx::cuda::Device>(m, "Engine", "A compiled network on a GPU; see spxcore.engines.cuda.");
  m.def("build_info", &build_info, "version, compiler, flags and architectures this module was built with.");
}
