// The Python module spxcore._native.
#include <pybind11/pybind11.h>

#include "cpu/bindings.h"
#include "cpu_features.h"
#include "cuda/emulation_bindings.h"
#include "fields.h"

namespace py = pybind11;

namespace {

py::array_t<uint32_t> philox(const py::object& seed_object, const py::object& counters_object) {
  const uint64_t seed = spx::checked_seed(seed_object);
  const auto counters = spx::checked_array<uint32_t>("counters", counters_object, {-1, 4}, {"N", ""});
  const py::ssize_t n = counters.shape(0);
  auto words = spx::new_array<uint32_t>("counters", {n, 4});
  const uint32_t* from = counters.data();
  uint32_t* to = words.mutable_data();
  for (py::ssize_t i = 0; i < n; ++i) spx::philox4x32(seed, from + 4 * i, to + 4 * i);
  return words;
}

py::array_t<uint8_t> draw(const py::object& params_object, const py::object& counters_object,
                          const py::object& seed_object, const py::object& head_object,
                          const py::object& temperature_object, bool mode) {
  const spx::Head head = spx::read_head(spx::Fields(head_object, "head."));
  const int parameters = spx::parameters_of(head);
  const auto params = spx::checked_array<float>("params", params_object, {-1, parameters}, {"N", ""});
  const py::ssize_t n = params.shape(0);
  const auto counters = spx::checked_array<uint32_t>("counters", counters_object, {n, 4});
  const uint64_t seed = spx::checked_seed(seed_object);
  const float temperature = spx::checked_positive("temperature", temperature_object);
  auto pixels = spx::new_array<uint8_t>("params", {n, head.channels});
  uint8_t* to = pixels.mutable_data();
  for (py::ssize_t i = 0; i < n; ++i) {
    uint32_t words[4];
    spx::philox4x32(seed, counters.data() + 4 * i, words);
    spx::draw(head, params.data() + parameters * i, 1, words, temperature, mode, to + head.channels * i);
  }
  return pixels;
}

py::dict cpu_features() {
  const spx::CpuFeatures& f = spx::cpu_features();
  py::dict d;
  d["amd"] = f.amd;
  d["fma"] = f.fma;
  d["avx2"] = f.avx2;
  d["avx512f"] = f.avx512f;
  d["avx512bw"] = f.avx512bw;
  d["avx512dq"] = f.avx512dq;
  d["avx512vl"] = f.avx512vl;
  d["avx512bf16"] = f.avx512bf16;
  d["amx_tile"] = f.amx_tile;
  d["amx_bf16"] = f.amx_bf16;
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
  m.attr("VERSION") = spx::VERSION;
  spx::register_tables();
  m.def("draw", &draw, py::arg("params"), py::arg("counters"), py::arg("seed"), py::arg("head"),
        py::arg("temperature") = 1.0, py::arg("mode") = false,
        R"(Draw pixels from their distributions: the native twin of a head's draw in spxcore.heads, for tests.

params: float32 [N, P]. counters: uint32 [N, 4], of Philox, which give each pixel its random words under the seed.
head: a spxcore.heads.Logistics or Softmax of up to 256 levels. temperature, mode: as of spxcore.heads.Sampling.

Returns uint8 [N, C]. Raises ValueError for a wrong shape, dtype or range. A NaN never makes it fail.)");
  spx::define_cpu_engine(m);
  spx::define_cuda_emulation(m);
  m.def("cpu_features", &cpu_features,
        "Which instruction sets both the processor and the operating system support, and whether AMD made it: name -> "
        "bool.");
  m.def("build_info", &build_info, "version, compiler and flags this module was built with.");
}
