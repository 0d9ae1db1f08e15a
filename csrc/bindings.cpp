// The Python module spxcore._native.
#include <pybind11/pybind11.h>

#include "arguments.h"
#include "cpu/bindings.h"
#include "cpu_features.h"
#include "cuda/emulation_bindings.h"
#include "draw.h"

namespace py = pybind11;

namespace {

py::array_t<uint32_t> philox(const py::int_& seed_object, const py::object& counters_object) {
  const uint64_t seed = spx::checked_seed(seed_object);
  const auto counters = spx::checked_array<uint32_t>("counters", counters_object, {-1, 4}, {"N", ""});
  const py::ssize_t n = counters.shape(0);
  py::array_t<uint32_t> words(std::vector<py::ssize_t>{n, 4});
  const uint32_t* from = counters.data();
  uint32_t* to = words.mutable_data();
  for (py::ssize_t i = 0; i < n; ++i) spx::philox4x32(seed, from + 4 * i, to + 4 * i);
  return words;
}

py::array_t<uint8_t> draw(const py::object& params, int channels, const py::int_& seed, const py::object& rows,
                          const py::object& columns, const py::object& images, double temperature, bool map) {
  const spx::DrawArguments a(params, channels, seed, rows, columns, images, temperature, map);
  py::array_t<uint8_t> levels = a.new_levels();
  const float* pixel = a.params.data();
  uint8_t* to = levels.mutable_data();
  const uint32_t *row = a.rows.data(), *column = a.columns.data(), *image = a.images.data();
  {
    const py::gil_scoped_release release;
    for (int64_t i = 0; i < a.pixels; ++i) {
      const uint32_t counter[4] = {row[i], column[i], image[i], 0};
      uint32_t words[4];
      spx::philox4x32(a.seed, counter, words);
      spx::draw(pixel, 1, a.channels, a.components, words, a.temperature, a.map, to);
      pixel += spx::parameters_per_component(a.channels) * a.components;
      to += a.channels;
    }
  }
  return levels;
}

py::dict cpu_features() {
  const spx::CpuFeatures& f = spx::cpu_features();
  py::dict d;
  d["avx"] = f.avx;
  d["f16c"] = f.f16c;
  d["fma"] = f.fma;
  d["avx2"] = f.avx2;
  d["avx_vnni"] = f.avx_vnni;
  d["avx512f"] = f.avx512f;
  d["avx512bw"] = f.avx512bw;
  d["avx512dq"] = f.avx512dq;
  d["avx512vl"] = f.avx512vl;
  d["avx512vnni"] = f.avx512vnni;
  d["avx512bf16"] = f.avx512bf16;
  d["avx512fp16"] = f.avx512fp16;
  d["amx_tile"] = f.amx_tile;
  d["amx_bf16"] = f.amx_bf16;
  d["amx_int8"] = f.amx_int8;
  return d;
}

py::dict build_info() {
  py::dict d;
  d["version"] = SPX_VERSION;
  d["compiler"] = SPX_COMPILER;
  d["flags"] = SPX_FLAGS;
  return d;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "spx on the processor: random numbers, the draw of a pixel, the cpp engine, and what this machine can run.";
  m.def("philox", &philox, py::arg("seed"), py::arg("counters"),
        R"(Philox4x32-10 words, uint32 [N, 4], of `counters`, uint32 [N, 4], under a seed from 0 to 2**64 - 1.

spxcore.rng.philox4x32's native twin. Raises ValueError for a wrong shape, dtype or range.)");
  spx::define_draw(m, &draw);
  spx::define_cpu_engine(m);
  spx::define_cuda_emulation(m);
  m.def("cpu_features", &cpu_features,
        "Which instruction sets both the processor and the operating system support: name -> bool.");
  m.def("build_info", &build_info, "version, compiler and flags this module was built with.");
}
