// The Python module spxcore._cuda. The host's compiler builds this file, nvcc only the kernels: pybind11's templates
// are nothing for nvcc. The CUDA runtime is linked statically, so the module loads on a machine without a driver.
#include <pybind11/pybind11.h>

#include "arguments.h"
#include "cuda/device.h"
#include "cuda/engine_bindings.h"
#include "cuda/host.h"

namespace py = pybind11;

namespace {

py::array_t<uint8_t> draw(const py::object& params, int channels, const py::int_& seed, const py::object& rows,
                          const py::object& columns, const py::object& images, double temperature, bool map) {
  const spx::DrawArguments a(params, channels, seed, rows, columns, images, temperature, map);
  py::array_t<uint8_t> levels = a.new_levels();
  const float* pixels = a.params.data();
  const uint32_t *row = a.rows.data(), *column = a.columns.data(), *image = a.images.data();
  uint8_t* to = levels.mutable_data();
  {
    const py::gil_scoped_release release;
    spx::cuda::draw(pixels, row, column, image, a.pixels, a.channels, a.components, a.seed, a.temperature, a.map, to);
  }
  return levels;
}

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
  m.def("device_count", &spx::cuda::device_count, "How many GPUs there are; 0 without a driver.");
  m.def("device_name", &spx::cuda::device_name, py::arg("device"), "The name of GPU number `device`.");
  m.def("compute_capability", &spx::cuda::compute_capability, py::arg("device"),
        "80 for an A100, 90 for an H100 or H200.");
  spx::define_draw(m, &draw);
  py::register_local_exception<spx::cuda::DoesNotFit>(m, "DoesNotFit", PyExc_MemoryError);
  spx::cuda::define_engine<spx::cuda::Device>(m, "Engine", "A compiled network on a GPU; see spxcore.engines.cuda.");
  m.def("build_info", &build_info, "version, compiler, flags and architectures this module was built with.");
}
