// The cpp engine as Python sees it: spxcore/engines/cpp.py is the only caller.
#include "bindings.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../arguments.h"
#include "sampler.h"

namespace spx {
namespace {

namespace py = pybind11;

template <typename T>
std::vector<T> to_vector(const char* name, const py::object& value, const std::vector<py::ssize_t>& shape,
                         const std::vector<std::string>& names) {
  const auto array = checked_array<T>(name, value, shape, names);
  return std::vector<T>(array.data(), array.data() + array.size());
}

// Rows of int32 numbers as structs of as many int32 fields.
template <typename Struct>
std::vector<Struct> to_structs(const char* name, const py::object& value) {
  constexpr py::ssize_t fields = sizeof(Struct) / sizeof(int32_t);
  const std::vector<int32_t> numbers = to_vector<int32_t>(name, value, {-1, fields}, {"N", ""});
  std::vector<Struct> structs(numbers.size() / fields);
  std::copy(numbers.begin(), numbers.end(), reinterpret_cast<int32_t*>(structs.data()));
  return structs;
}

Program to_program(const py::handle& from) {
  const auto field = [&](const char* name) { return py::object(from.attr(name)); };
  Program program;
  program.targets = to_vector<int32_t>("targets", field("targets"), {-1}, {"T"});
  program.ops = to_structs<Op>("ops", field("ops"));
  program.taps = to_structs<Tap>("taps", field("taps"));
  program.begins = to_vector<int32_t>("begins", field("begins"), {-1}, {"parts + 1"});
  program.pixels = to_vector<int32_t>("pixels", field("pixels"), {-1, 2}, {"N", ""});
  program.conditioning = to_vector<int32_t>("conditioning", field("conditioning"), {-1, 3}, {"N", ""});
  program.params = to_vector<int32_t>("params", field("params"), {-1}, {"T"});
  program.rows = field("rows").cast<int32_t>();
  return program;
}

const Kernels* find_kernels(const std::string& name) {
  std::string names;
  for (const Kernels* kernels : available_kernels()) {
    if (name.empty() || name == kernels->name) return kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw py::value_error("isa: expected one of " + names + " on this machine, got '" + name + "'");
}

int checked_threads(int threads) {
  if (threads < 0 || threads > 4096)
    throw py::value_error("threads: expected 0 (all) to 4096, got " + std::to_string(threads));
  return threads > 0 ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// The array of an optional argument: null where the network has no use for it.
const float* optional(const char* name, const py::object& value, bool wanted, const std::vector<py::ssize_t>& shape,
                      const std::vector<std::string>& names, py::object* keep) {
  if (!wanted) return nullptr;
  auto array = checked_array<float>(name, value, shape, names);
  const float* data = array.data();
  *keep = std::move(array);
  return data;
}

// What a network is made of: fields of spxcore.plan.program.Tables, and programs. The model's inputs are there already.
void fill(Model* model, const py::object& weights, const py::object& blocks, const py::object& bias,
          const py::object& latent, const py::list& programs, const std::string& isa) {
  model->kernels = find_kernels(isa);
  model->weights = to_vector<float>("weights", weights, {-1}, {"N"});
  model->bias = to_vector<float>("bias", bias, {-1}, {"N"});
  const auto u = checked_array<float>("latent", latent, {-1, -1}, {"Z", "L"});
  model->latent = static_cast<int>(u.shape(0));
  model->latent_outputs = static_cast<int>(u.shape(1));
  model->latent_weights.assign(u.data(), u.data() + u.size());
  for (const py::handle program : programs) model->programs.push_back(to_program(program));
  model->finish(to_structs<WeightBlock>("blocks", blocks));  // std::invalid_argument becomes a ValueError
}

// A program's results for N windows or images, [N, T, P]. inputs: name and array [N, places, channels] of each of the
// model's.
py::array_t<float> run_program(const Model& model, const Program& program,
                               const std::vector<std::pair<const char*, py::object>>& inputs, const py::object& z,
                               bool narrow, int threads) {
  py::ssize_t n = -1;
  std::vector<py::array_t<float, py::array::c_style>> keep;
  std::vector<const float*> data;
  for (size_t k = 0; k < model.inputs.size(); ++k) {
    const Input& input = model.inputs[k];
    keep.push_back(
        checked_array<float>(inputs[k].first, inputs[k].second, {n, input.places, input.channels}, {"N", "", ""}));
    data.push_back(keep.back().data());
    n = keep.back().shape(0);
  }
  py::object keep_z;
  const float* codes = optional("z", z, model.latent > 0, {n, model.latent}, {}, &keep_z);
  threads = checked_threads(threads);
  const auto targets = static_cast<py::ssize_t>(program.targets.size());
  py::array_t<float> params(std::vector<py::ssize_t>{n, targets, model.parameters});
  float* to = params.mutable_data();
  {
    const py::gil_scoped_release release;
    spx::evaluate(model, program, n, data, codes, narrow, threads, to);
  }
  return params;
}

class Engine {
 public:
  Engine(int patch, int channels, int parameters, int place_inputs, const py::object& weights, const py::object& blocks,
         const py::object& bias, const py::object& latent, const py::list& programs, const std::string& isa,
         bool bf16) {
    const int each = parameters_per_component(channels);
    if (patch < 4 || patch % 4 != 0)
      throw py::value_error("patch: expected a multiple of 4, got " + std::to_string(patch));
    if (each == 0) throw py::value_error("channels: expected 1 or 3, got " + std::to_string(channels));
    if (parameters < each || parameters % each != 0) {
      throw py::value_error("parameters: expected a multiple of " + std::to_string(each) + ", got " +
                            std::to_string(parameters));
    }
    if (place_inputs < 0 || place_inputs == 1) {
      throw py::value_error("place_inputs: expected 0, 2 or 3 + maps, got " + std::to_string(place_inputs));
    }
    model_.patch = patch;
    model_.channels = channels;
    model_.parameters = parameters;
    model_.place_inputs = place_inputs;
    model_.places = patch * patch;
    model_.inputs.push_back({patch * patch, channels});
    for (int k = 0; place_inputs > 0 && k < 3; ++k)
      model_.inputs.push_back({(patch >> k) * (patch >> k), place_inputs});
    model_.tile_kernels = bf16 ? available_tile_kernels() : nullptr;
    if (bf16 && !model_.tile_kernels)
      throw py::value_error("bf16: expected a processor with AMX, or AMD's with AVX512_BF16, got one without");
    if (bf16 && !isa.empty() && isa != "avx512")
      throw py::value_error("isa: expected avx512 for bf16, got '" + isa + "'");
    fill(&model_, weights, blocks, bias, latent, programs, isa);
  }

  void sample(int height, int width, const py::int_& seed, const py::object& images, const py::object& z,
              const py::object& maps, const py::object& y_axis, const py::object& x_axis, float scale,
              float temperature, bool map, int threads, const py::object& out, const py::object& progress) const {
    if (static_cast<int>(model_.programs.size()) < 2 * model_.patch) {
      throw py::value_error("programs: expected " + std::to_string(2 * model_.patch) + " to sample with, got " +
                            std::to_string(model_.programs.size()));
    }
    check_window_programs();
    ImageJob job{};
    job.height = height, job.width = width;
    if (height < model_.patch || width < model_.patch) {
      throw py::value_error("height and width: expected at least the patch size " + std::to_string(model_.patch) +
                            ", got " + shape_text({height, width}));
    }
    job.seed = checked_seed(seed);
    job.images = to_vector<uint32_t>("images", images, {-1}, {"N"});
    const auto n = static_cast<py::ssize_t>(job.images.size());
    const int map_count = std::max(model_.place_inputs - 3, 0);
    py::object keep_z, keep_maps, keep_y, keep_x;
    job.z = optional("z", z, model_.latent > 0, {n, model_.latent}, {}, &keep_z);
    job.maps = optional("maps", maps, map_count > 0, {n, map_count, -1, -1}, {"", "", "h", "w"}, &keep_maps);
    if (job.maps) {
      const auto array = py::reinterpret_borrow<py::array>(keep_maps);
      job.map_height = static_cast<int>(array.shape(2)), job.map_width = static_cast<int>(array.shape(3));
      if (job.map_height < 1 || job.map_width < 1)
        throw py::value_error("maps: expected at least one sample, got none");
    }
    job.y_axis = optional("y_axis", y_axis, true, {height}, {}, &keep_y);
    job.x_axis = optional("x_axis", x_axis, true, {width}, {}, &keep_x);
    job.scale = scale, job.temperature = temperature, job.map = map;
    auto levels = checked_array<uint8_t>("out", out, {n, height, width, model_.channels}, {});
    if (levels.ptr() != out.ptr()) throw py::value_error("out: expected a C-contiguous array, got another layout");
    job.out = levels.mutable_data();
    threads = checked_threads(threads);
    reporting_to(progress, [&](const auto& report) { spx::sample(model_, job, threads, report); });
  }

  py::array_t<float> evaluate(int program, const py::object& pixels, const py::list& conditioning, const py::object& z,
                              bool narrow, int threads) const {
    if (program < 0 || program >= static_cast<int>(model_.programs.size())) {
      throw py::value_error("program: expected 0 to " + std::to_string(model_.programs.size() - 1) + ", got " +
                            std::to_string(program));
    }
    std::vector<std::pair<const char*, py::object>> inputs = {{"pixels", pixels}};
    if (model_.place_inputs > 0) {
      if (conditioning.size() != 3)
        throw py::value_error("conditioning: expected 3 arrays, got " + std::to_string(conditioning.size()));
      for (const py::handle array : conditioning) {
        inputs.emplace_back("conditioning", py::reinterpret_borrow<py::object>(array));
      }
    }
    return run_program(model_, model_.programs[program], inputs, z, narrow, threads);
  }

  std::string isa() const { return model_.kernels->name; }

 private:
  // What the sampler relies on beyond Model::finish: entry 2 i + left has the targets of that kind of window, as steps.
  void check_window_programs() const {
    const int m = model_.patch;
    for (int i = 0; i < m; ++i) {
      for (int left = 0; left < 2; ++left) {
        const Program& program = model_.programs[2 * i + left];
        bool good = program.steps() == (left ? m : 1);
        for (int t = 0; good && t < program.steps(); ++t) good = program.targets[t] == i * m + (left ? t : m - 1);
        for (size_t p = 0; good && p < program.pixels.size(); p += 2) good = program.pixels[p] < (i + 1) * m;
        if (!good)
          throw py::value_error("program " + std::to_string(2 * i + left) + ": expected that of window row " +
                                std::to_string(i));
      }
    }
  }

  Model model_;
};

// A network of a whole image, such as a VAE's decoder.
class ImageNetwork {
 public:
  ImageNetwork(const py::object& inputs, int places, int outputs, const py::object& weights, const py::object& blocks,
               const py::object& bias, const py::object& latent, const py::object& program, const std::string& isa) {
    constexpr int MOST = 1 << 20;
    model_.inputs = to_structs<Input>("inputs", inputs);
    if (model_.inputs.empty()) throw py::value_error("inputs: expected at least one, got none");
    for (const Input& input : model_.inputs) {
      if (input.places < 1 || input.places > MOST || input.channels < 1 || input.channels > MOST)
        throw py::value_error("inputs: expected 1 to 2^20 places and channels, got " +
                              shape_text({input.places, input.channels}));
    }
    if (places < 1 || places > MOST || outputs < 1 || outputs > MOST)
      throw py::value_error("places and outputs: expected 1 to 2^20, got " + shape_text({places, outputs}));
    model_.places = places;
    model_.parameters = outputs;
    py::list programs;
    programs.append(program);
    fill(&model_, weights, blocks, bias, latent, programs, isa);
  }

  py::array_t<float> evaluate(const py::list& inputs, const py::object& z, bool narrow, int threads) const {
    if (inputs.size() != model_.inputs.size()) {
      throw py::value_error("inputs: expected " + std::to_string(model_.inputs.size()) + " arrays, got " +
                            std::to_string(inputs.size()));
    }
    std::vector<std::pair<const char*, py::object>> named;
    for (const py::handle array : inputs) named.emplace_back("inputs", py::reinterpret_borrow<py::object>(array));
    return run_program(model_, model_.programs[0], named, z, narrow, threads);
  }

 private:
  Model model_;
};

}  // namespace

void define_cpu_engine(py::module_& module) {
  py::class_<ImageNetwork>(module, "ImageNetwork",
                           "A compiled network of a whole image; see spxcore.engines.image_network.")
      .def(
          py::init<const py::object&, int, int, const py::object&, const py::object&, const py::object&,
                   const py::object&, const py::object&, const std::string&>(),
          py::arg("inputs"), py::arg("places"), py::arg("outputs"), py::arg("weights"), py::arg("blocks"),
          py::arg("bias"), py::arg("latent"), py::arg("program"), py::arg("isa") = "",
          R"(inputs: int32 [K, 2], places and channels of each of the plan's inputs. places, outputs: of its output, and channels.
weights, blocks, bias, latent: fields of spxcore.plan.program.Tables. program: spxcore.plan.program.full_program.
isa: a name of instruction_sets(), "" for the fastest. Raises ValueError for an index out of range.)")
      .def("evaluate", &ImageNetwork::evaluate, py::arg("inputs"), py::arg("z"), py::arg("narrow") = false,
           py::arg("threads") = 0,
           R"(The output of N images, float32 [N, places, outputs].

inputs: float32 [N, places, channels] each. z: float32 [N, Z], or None where Z is 0.
narrow: with the kernels for one image at a time; the bits are the same. threads: 0 for all.)");
  py::class_<Engine>(module, "Engine", "A compiled network on the processor; see spxcore.engines.cpp.")
      .def(py::init<int, int, int, int, const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::list&, const std::string&, bool>(),
           py::arg("patch"), py::arg("channels"), py::arg("parameters"), py::arg("place_inputs"), py::arg("weights"),
           py::arg("blocks"), py::arg("bias"), py::arg("latent"), py::arg("programs"), py::arg("isa") = "",
           py::arg("bf16") = false,
           R"(patch: m. channels: C. parameters: P, of a pixel's mixture. place_inputs: D, 0, 2 or 3 + maps.
weights, blocks, bias, latent: fields of spxcore.plan.program.Tables. programs: spxcore.plan.program.Program each.
isa: a name of instruction_sets(), "" for the fastest. bf16: what runs ahead in bf16, if have_bf16(). Raises ValueError for an index out of range.)")
      .def("sample", &Engine::sample, py::arg("height"), py::arg("width"), py::arg("seed"), py::arg("images"),
           py::arg("z"), py::arg("maps"), py::arg("y_axis"), py::arg("x_axis"), py::arg("scale"),
           py::arg("temperature"), py::arg("map"), py::arg("threads"), py::arg("out"), py::arg("progress"),
           R"(Draw into out, uint8 [N, H, W, C]; the programs must be spxcore.plan.program.window_programs.

images: uint32 [N]. z: float32 [N, Z]. maps: float32 [N, M, h, w]. y_axis, x_axis: float32 [H], [W]. threads: 0 for all.
progress: called with the number of pixels since the last call, or None; what it raises stops the drawing.)")
      .def("evaluate", &Engine::evaluate, py::arg("program"), py::arg("pixels"), py::arg("conditioning"), py::arg("z"),
           py::arg("narrow") = false, py::arg("threads") = 0,
           R"(Mixture parameters of a program's targets in windows that are known, float32 [N, T, P].

pixels: float32 [N, m * m, C]. conditioning: three float32 [N, places, D], or an empty list. z: float32 [N, Z] or None.
narrow: with the kernels for one window at a time. threads: 0 for all.)")
      .def_property_readonly("isa", &Engine::isa, "The instruction set it runs with.");
  module.def(
      "instruction_sets",
      [] {
        std::vector<std::string> names;
        for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->name);
        return names;
      },
      "Names of the instruction sets that Engine can use here, the fastest first.");
  module.def(
      "have_bf16", [] { return available_tile_kernels() != nullptr; },
      "Whether Engine can run in bf16 here: on a processor with AMX whose operating system lends it, or on AMD's with "
      "AVX512_BF16.");
  module.def(
      "fma_peak",
      [](double seconds, const std::string& isa) {
        const Kernels* kernels = find_kernels(isa);
        const py::gil_scoped_release release;
        return kernels->peak(seconds);
      },
      py::arg("seconds") = 0.2, py::arg("isa") = "",
      "Fused multiply-adds a second that one core reaches when it does nothing else: the ceiling of every fp32 "
      "figure.");
  module.def(
      "bf16_peak",
      [](double seconds) {
        const TileKernels* kernels = available_tile_kernels();
        const py::gil_scoped_release release;
        return kernels && kernels->peak ? kernels->peak(seconds) : 0.0;
      },
      py::arg("seconds") = 0.2,
      "The same of bf16 where it is computed by dot products; 0.0 where it is not, or not known (AMX).");
}

}  // namespace spx
