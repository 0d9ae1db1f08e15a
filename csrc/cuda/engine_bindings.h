// The cuda engine as Python sees it, on a device (spxcore._cuda) or emulated (spxcore._native): spxcore/engines/cuda.py
// is the only caller.
#pragma once

#include <pybind11/functional.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "cuda/engine.h"

namespace spx::cuda {

namespace py = pybind11;

template <typename T>
std::vector<T> numbers_of(const char* name, const py::object& value) {
  const auto array = checked_array<T>(name, value, {-1}, {"N"});
  return std::vector<T>(array.data(), array.data() + array.size());
}

// Rows of int32 numbers as structs of as many int32 fields.
template <typename Struct>
std::vector<Struct> structs_of(const char* name, const py::object& value) {
  constexpr py::ssize_t fields = sizeof(Struct) / sizeof(int32_t);
  const auto array = checked_array<int32_t>(name, value, {-1, fields}, {"N", ""});
  std::vector<Struct> structs(array.shape(0));
  std::copy(array.data(), array.data() + array.size(), reinterpret_cast<int32_t*>(structs.data()));
  return structs;
}

inline Precision precision_of(const std::string& name) {
  if (name == "fp32") return Precision::fp32;
  if (name == "tf32") return Precision::tf32;
  if (name == "bf16") return Precision::bf16;
  throw py::value_error("precision: expected fp32, tf32 or bf16, got '" + name + "'");
}

inline Tables tables_of(int patch, int channels, int parameters, int place_inputs, const py::handle& passes) {
  const int each = parameters_per_component(channels);
  if (patch < 4 || patch > 1024 || patch % 4 != 0)
    throw py::value_error("patch: expected a multiple of 4, got " + std::to_string(patch));
  if (each == 0) throw py::value_error("channels: expected 1 or 3, got " + std::to_string(channels));
  if (parameters < each || parameters % each != 0) {
    throw py::value_error("parameters: expected a multiple of " + std::to_string(each) + ", got " +
                          std::to_string(parameters));
  }
  if (place_inputs < 0 || place_inputs == 1)
    throw py::value_error("place_inputs: expected 0, 2 or 3 + maps, got " + std::to_string(place_inputs));
  const auto field = [&](const char* name) { return py::object(passes.attr(name)); };
  Tables t{};
  t.patch = patch, t.channels = channels, t.parameters = parameters, t.place_inputs = place_inputs;
  t.precision = precision_of(field("precision").cast<std::string>());
  t.words = field("words").cast<int32_t>();
  t.latents = static_cast<int32_t>(checked_array<float>("latent", field("latent"), {-1, -1}, {"Z", "L"}).shape(1));
  t.programs = structs_of<Program>("programs", field("programs"));
  t.parts = numbers_of<int32_t>("parts", field("parts"));
  t.passes = structs_of<Pass>("passes", field("passes"));
  t.rows = structs_of<Row>("rows", field("rows"));
  t.kinds = numbers_of<int32_t>("kinds", field("kinds"));
  t.sources = numbers_of<int32_t>("sources", field("sources"));
  t.weights = numbers_of<uint32_t>("weights", field("weights"));
  t.bias = numbers_of<float>("bias", field("bias"));
  t.pixels = structs_of<Pixel>("pixels", field("pixels"));
  t.conditioning = structs_of<Conditioning>("conditioning", field("conditioning"));
  t.params = numbers_of<int32_t>("params", field("params"));
  t.check();  // std::invalid_argument becomes a ValueError
  return t;
}

// `Runner` is Device or Emulation.
template <typename Runner>
class Engine {
 public:
  Engine(int patch, int channels, int parameters, int place_inputs, const py::object& passes, int device, int blocks,
         int warps, int windows, int patience)
      : Engine(tables_of(patch, channels, parameters, place_inputs, passes),
               checked({device, blocks, warps, windows, patience})) {}

  void sample(int height, int width, const py::int_& seed, const py::object& images, const py::object& latent,
              const py::object& maps, const py::object& y_axis, const py::object& x_axis, float scale,
              float temperature, bool map, const py::object& out, const py::object& progress) const {
    if (height < sizes_.patch || width < sizes_.patch || height > 1 << 20 || width > 1 << 20) {
      throw py::value_error("height and width: expected " + std::to_string(sizes_.patch) + " to 2^20, got " +
                            shape_text({height, width}));
    }
    const auto numbers = checked_array<uint32_t>("images", images, {-1}, {"N"});
    const py::ssize_t n = numbers.shape(0);
    if (n < 1 || n > 1 << 24) throw py::value_error("images: expected 1 to 2^24, got " + std::to_string(n));
    const auto uz = checked_array<float>("latent", latent, {n, sizes_.latents}, {});
    const auto y = checked_array<float>("y_axis", y_axis, {height}, {});
    const auto x = checked_array<float>("x_axis", x_axis, {width}, {});
    auto levels = checked_array<uint8_t>("out", out, {n, height, width, sizes_.channels}, {});
    if (levels.ptr() != out.ptr()) throw py::value_error("out: expected a C-contiguous array, got another layout");
    Job job{};
    job.height = height, job.width = width, job.images = static_cast<int32_t>(n);
    job.seed = checked_seed(seed);
    job.numbers = numbers.data(), job.latent = uz.data(), job.y_axis = y.data(), job.x_axis = x.data();
    py::array_t<float, py::array::c_style> all_maps;
    if (sizes_.place_inputs > 2) {
      all_maps = checked_array<float>("maps", maps, {n, sizes_.place_inputs - 3, -1, -1}, {"", "", "h", "w"});
      job.maps = all_maps.data();
      job.map_height = static_cast<int32_t>(all_maps.shape(2)), job.map_width = static_cast<int32_t>(all_maps.shape(3));
      if (job.map_height < 1 || job.map_width < 1)
        throw py::value_error("maps: expected at least one sample, got none");
    }
    job.scale = scale, job.temperature = temperature, job.map = map;
    job.out = levels.mutable_data();
    reporting_to(progress, [&](const auto& report) { runner_.sample(job, report); });
  }

  py::array_t<float> evaluate(int program, const py::object& pixels, const py::list& conditioning,
                              const py::object& latent) const {
    const int m = sizes_.patch;
    if (program < 0 || program >= 2 * m) {
      throw py::value_error("program: expected 0 to " + std::to_string(2 * m - 1) + ", got " + std::to_string(program));
    }
    const auto x = checked_array<float>("pixels", pixels, {-1, m * m, sizes_.channels}, {"N", "", ""});
    const py::ssize_t n = x.shape(0), targets = program % 2 ? m : 1;
    const auto uz = checked_array<float>("latent", latent, {n, sizes_.latents}, {});
    Known known{};
    known.program = program, known.windows = n, known.pixels = x.data(), known.latent = uz.data();
    py::array_t<float, py::array::c_style> places[3];
    if (sizes_.place_inputs > 0) {
      if (conditioning.size() != 3)
        throw py::value_error("conditioning: expected 3 arrays, got " + std::to_string(conditioning.size()));
      for (int k = 0; k < 3; ++k) {
        const py::ssize_t side = m >> k;
        places[k] = checked_array<float>("conditioning", conditioning[k], {n, side * side, sizes_.place_inputs}, {});
        known.conditioning[k] = places[k].data();
      }
    }
    py::array_t<float> params(std::vector<py::ssize_t>{n, targets, sizes_.parameters});
    known.params = params.mutable_data();
    if (n > 0) {
      const py::gil_scoped_release release;
      runner_.evaluate(known);
    }
    return params;
  }

  py::dict options() const {
    const Options chosen = runner_.options();
    py::dict d;
    d["device"] = chosen.device, d["blocks"] = chosen.blocks, d["warps"] = chosen.warps, d["windows"] = chosen.windows;
    return d;
  }

 private:
  struct Sizes {
    int32_t patch, channels, parameters, place_inputs, latents;
  };

  Engine(Tables tables, Options options)
      : sizes_{tables.patch, tables.channels, tables.parameters, tables.place_inputs, tables.latents},
        runner_(std::move(tables), options) {}

  static Options checked(Options options) {
    const auto check = [](const char* name, int value, int most) {
      if (value < 0 || value > most) {
        throw py::value_error(std::string(name) + ": expected 0 to " + std::to_string(most) + ", got " +
                              std::to_string(value));
      }
    };
    check("device", options.device, 1 << 10), check("blocks", options.blocks, 1 << 16);
    check("warps", options.warps, 32), check("windows", options.windows, 64);
    check("patience", options.patience, PATIENCE);
    return options;
  }

  Sizes sizes_;
  Runner runner_;
};

template <typename Runner>
void define_engine(py::module_& module, const char* name, const char* doc) {
  using Type = Engine<Runner>;
  py::class_<Type>(module, name, doc)
      .def(py::init<int, int, int, int, const py::object&, int, int, int, int, int>(), py::arg("patch"),
           py::arg("channels"), py::arg("parameters"), py::arg("place_inputs"), py::arg("passes"),
           py::arg("device") = 0, py::arg("blocks") = 0, py::arg("warps") = 0, py::arg("windows") = 0,
           py::arg("patience") = 0,
           R"(patch: m. channels: C. parameters: P, of a pixel's mixture. place_inputs: D, 0, 2 or 3 + maps.
passes: a spxcore.plan.passes.Passes. device: number of the GPU. blocks, warps, windows: of the grid, of a block, that a block runs
ahead; 0 for as many as fit. patience: turns that a row waits for the row above, 0 for minutes. Raises ValueError for an index out of range.)")
      .def("sample", &Type::sample, py::arg("height"), py::arg("width"), py::arg("seed"), py::arg("images"),
           py::arg("latent"), py::arg("maps"), py::arg("y_axis"), py::arg("x_axis"), py::arg("scale"),
           py::arg("temperature"), py::arg("map"), py::arg("out"), py::arg("progress"),
           R"(Draw into out, uint8 [N, H, W, C].

images: uint32 [N]. latent: float32 [N, L], U z. maps: float32 [N, M, h, w] or None. y_axis, x_axis: float32 [H], [W].
progress: called with the number of pixels since the last call, or None; what it raises stops the drawing.)")
      .def("evaluate", &Type::evaluate, py::arg("program"), py::arg("pixels"), py::arg("conditioning"),
           py::arg("latent"),
           R"(Mixture parameters of a program's targets in windows that are known, float32 [N, T, P].

pixels: float32 [N, m * m, C]. conditioning: three float32 [N, places, D], or an empty list. latent: float32 [N, L], U z.)")
      .def_property_readonly("options", &Type::options, "device, blocks, warps and windows that it runs with.");
}

}  // namespace spx::cuda
