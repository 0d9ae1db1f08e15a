// The cpp engine as Python sees it: spxcore/engines/cpp.py is the only caller.
#include "bindings.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "../fields.h"
#include "dispatch.h"
#include "engine.h"
#include "raster.h"

namespace spx {
namespace {

constexpr int64_t MOST = 1 << 20;       // places, and numbers at each
constexpr size_t MOST_INPUTS = 64;      // of a network
constexpr size_t MOST_PROGRAMS = 2048;  // two for each row of the largest window

Program read_program(const Fields& from) {
  Program program;
  program.targets = from.copy<int32_t>("targets", {-1}, {"T"});
  program.ops = from.rows<Op>("ops");
  program.taps = from.rows<Tap>("taps");
  program.begins = from.copy<int32_t>("begins", {-1}, {"parts + 1"});
  program.pixels = from.rows<Pixel>("pixels");
  program.told = from.rows<Told>("told");
  program.params = from.copy<int32_t>("params", {-1}, {"T"});
  program.rows = static_cast<int32_t>(from.whole("rows", 1, 1 << 26));
  return program;
}

// Peaks are measured without the GIL, so that nothing can stop them.
double checked_seconds(double seconds) {
  require(seconds > 0 && seconds <= 10, "seconds", "more than 0, at most 10", std::to_string(seconds));
  return seconds;
}

const Kernels* find_kernels(const std::string& name) {
  std::string names;
  for (const Kernels* kernels : available_kernels()) {
    if (name.empty() || name == kernels->name) return kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw py::value_error("isa: expected one of " + names + " on this machine, got '" + name + "'");
}

// What a model runs with; returns the number of threads.
int read_options(const Fields& o, Model& model) {
  model.poison = o.flag("poison");
  model.kernels = find_kernels(o.text("isa"));
  return static_cast<int>(o.whole("threads", 1, 4096));
}

// A network's numbers.
void read_numbers(const Fields& t, Model& model) {
  model.parameters = static_cast<int>(t.whole("parameters", 1, MOST));
  model.weights = t.copy<float>("weights", {-1}, {"N"});
  model.bias = t.copy<float>("bias", {-1}, {"N"});
  Shape got;
  model.code_weights = t.copy<float>("code", {-1, -1}, {"Z", "L"}, &got);
  require(got[0] <= MOST && got[1] <= MOST * 64, "code", "at most 2^20 by 2^26 numbers", shape_text(got));
  model.code = static_cast<int>(got[0]);
  model.code_outputs = static_cast<int>(got[1]);
}

// Puts other numbers into a model of the same tables.
void renew_numbers(Model& model, const py::object& weights, const py::object& bias, const py::object& code) {
  const auto size = [](const std::vector<float>& v) { return static_cast<py::ssize_t>(v.size()); };
  const auto w = finite_array("weights", weights, {size(model.weights) - SLACK});
  const auto b = finite_array("bias", bias, {size(model.bias)});
  const auto u = finite_array("code", code, {model.code, model.code_outputs});
  std::copy_n(w.data(), w.size(), model.weights.begin());
  std::copy_n(b.data(), b.size(), model.bias.begin());
  std::copy_n(u.data(), u.size(), model.code_weights.begin());
  model.pack();
}

class Engine {
 public:
  Engine(const py::object& tables, const py::object& options) {
    const Fields t(tables), o(options);
    threads_ = read_options(o, model_);
    if (o.flag("bf16")) {
      model_.tile_kernels = available_tile_kernels();
      require(model_.tile_kernels, "bf16", "a processor with AMX, or AMD's with AVX512_BF16", "one without");
      require(model_.kernels == kernels_avx512(), "isa", "avx512 for bf16", "'" + o.text("isa") + "'");
    }
    model_.inputs = t.rows<Input>("inputs");
    require(!model_.inputs.empty() && model_.inputs.size() <= MOST_INPUTS, "inputs",
            "1 to " + std::to_string(MOST_INPUTS), std::to_string(model_.inputs.size()));
    for (const Input& input : model_.inputs) {
      for (const int64_t size : {int64_t{input.height}, int64_t{input.width}, int64_t{input.height} * input.width,
                                 int64_t{input.channels}}) {
        require(size >= 1 && size <= MOST, "inputs", "1 to 2^20 places and channels", std::to_string(size));
      }
    }
    model_.places = static_cast<int>(t.whole("places", 1, MOST));
    read_numbers(t, model_);
    const py::object programs = t.get("programs");
    for (const py::handle program : programs) {
      require(model_.programs.size() < MOST_PROGRAMS, "programs", "at most " + std::to_string(MOST_PROGRAMS), "more");
      const std::string prefix = "program " + std::to_string(model_.programs.size()) + ": ";
      model_.programs.push_back(read_program(Fields(py::reinterpret_borrow<py::object>(program), prefix)));
    }
    model_.finish(t.rows<Block>("blocks"));  // std::invalid_argument becomes a ValueError
  }

  // Replaces the numbers, unless a thread is using them: false then, and nothing is changed.
  bool renew(const py::object& weights, const py::object& bias, const py::object& code) {
    const std::unique_lock alone(in_use_, std::try_to_lock);
    if (alone) renew_numbers(model_, weights, bias, code);
    return alone.owns_lock();
  }

  void draw(const py::object& job, const py::object& report) const {
    const std::shared_lock used(in_use_);
    check_window_programs();
    const Input& window = model_.inputs[0];
    const int32_t told = model_.inputs.size() > 1 ? model_.inputs[1].channels : 0;
    Fields fields(job);
    const Job checked = read_job(fields, {window.width, window.channels, told, model_.code, model_.parameters});
    reporting_to(report, [&](const auto& told_of) { spx::draw(model_, checked, threads_, told_of); });
  }

  // A program's results for N windows or images, [N, T, P].
  py::array_t<float> evaluate(const py::object& number, const py::list& inputs, const py::object& code,
                              bool narrow) const {
    const std::shared_lock used(in_use_);
    const auto programs = static_cast<int64_t>(model_.programs.size());
    const Program& program = model_.programs[checked_whole("program", number, 0, programs - 1)];
    require(inputs.size() == model_.inputs.size(), "inputs", std::to_string(model_.inputs.size()) + " arrays",
            std::to_string(inputs.size()));
    py::ssize_t n = -1;
    std::vector<Array<float>> keep;
    std::vector<const float*> data;
    for (size_t k = 0; k < model_.inputs.size(); ++k) {
      const Input& input = model_.inputs[k];
      keep.push_back(finite_array("inputs", inputs[k], {n, input.height * input.width, input.channels}, {"N", "", ""}));
      data.push_back(keep.back().data());
      n = keep.back().shape(0);
    }
    Array<float> codes;
    if (model_.code > 0) codes = finite_array("code", code, {n, model_.code});
    auto params = new_array<float>("params", {n, static_cast<py::ssize_t>(program.targets.size()), model_.parameters});
    float* to = params.mutable_data();
    {
      const py::gil_scoped_release release;
      spx::evaluate(model_, program, n, data, codes.data(), narrow, threads_, to);
    }
    return params;
  }

  std::string isa() const { return model_.kernels->name; }

 private:
  // What drawing relies on beyond Model::finish: entry 2 i + left has the targets of that kind of window, as steps.
  void check_window_programs() const {
    const Input& window = model_.inputs[0];
    const int m = window.width;
    require(window.height == m && model_.places == m * m, "inputs", "a square window whose pixels are the first",
            shape_text({window.height, m}));
    require(static_cast<int>(model_.programs.size()) == 2 * m, "programs", std::to_string(2 * m) + " to draw with",
            std::to_string(model_.programs.size()));
    for (size_t k = 2; k < model_.inputs.size(); ++k) {
      require(model_.inputs[k].channels == model_.inputs[1].channels, "inputs", "as many numbers told at every level",
              std::to_string(model_.inputs[k].channels));
    }
    for (int number = 0; number < 2 * m; ++number) {
      const Program& program = model_.programs[number];
      const int i = number / 2;
      bool good = program.steps() == (number % 2 ? m : 1);
      for (int t = 0; good && t < program.steps(); ++t) {
        good = program.targets[t] == i * m + (number % 2 ? t : m - 1);
      }
      for (const Pixel& pixel : program.pixels) good = good && pixel.place < (i + 1) * m;
      require(good, "program " + std::to_string(number), "that of window row " + std::to_string(i), "another");
    }
  }

  Model model_;
  int threads_;
  mutable std::shared_mutex in_use_;
};

class RasterEngine {
 public:
  RasterEngine(const py::object& tables, const py::object& options) {
    const Fields t(tables), o(options);
    threads_ = read_options(o, raster_.model);
    require(!o.flag("bf16"), "bf16", "False for the raster schedule", "True");
    read_numbers(t, raster_.model);
    raster_.height = static_cast<int>(t.whole("height", 1, MOST));
    raster_.width = static_cast<int>(t.whole("width", 1, MOST));
    raster_.period = static_cast<int>(t.whole("period", 1, 1 << 10));
    raster_.rings = t.rows<Ring>("rings");
    raster_.pixels = static_cast<int>(t.whole("pixels", 0, MOST));
    raster_.planes = t.copy<int32_t>("planes", {-1}, {"K"});
    raster_.params = static_cast<int>(t.whole("params", 0, MOST));
    raster_.stages = t.rows<RasterStage>("stages");
    raster_.kinds = t.rows<Kind>("kinds");
    raster_.rows = t.copy<int32_t>("rows", {raster_.height});
    raster_.ops = t.rows<RasterOp>("ops");
    raster_.taps = t.rows<RasterTap>("taps");
    raster_.biases = t.copy<int32_t>("biases", {-1}, {"N"});
    raster_.loads = t.rows<RingRow>("loads");
    raster_.steps = t.rows<RasterStep>("steps");
    raster_.step_begins =
        t.copy<int32_t>("step_begins", {static_cast<py::ssize_t>(raster_.kinds.size()), -1}, {"", "W + 2"});
    raster_.finish(t.rows<Block>("blocks"));  // std::invalid_argument becomes a ValueError
  }

  // As of Engine.
  bool renew(const py::object& weights, const py::object& bias, const py::object& code) {
    const std::unique_lock alone(in_use_, std::try_to_lock);
    if (!alone) return false;
    renew_numbers(raster_.model, weights, bias, code);
    raster_.fill();
    return true;
  }

  void draw(const py::object& job, const py::object& report) const {
    const std::shared_lock used(in_use_);
    const Model& model = raster_.model;
    Fields fields(job);
    const Job checked = read_job(fields, {1, raster_.rings[raster_.pixels].channels, 0, model.code, model.parameters});
    require(checked.height == raster_.height && checked.width == raster_.width, "height and width",
            shape_text({raster_.height, raster_.width}), shape_text({checked.height, checked.width}));
    const py::tuple given = fields.get("planes");
    require(given.size() == raster_.planes.size(), "planes", std::to_string(raster_.planes.size()) + " arrays",
            std::to_string(given.size()));
    std::vector<Array<float>> keep;
    std::vector<Planes> planes;
    for (size_t k = 0; k < given.size(); ++k) {
      const Ring& ring = raster_.rings[raster_.planes[k]];
      keep.push_back(finite_array("planes", given[k], {-1, -1, ring.width, ring.channels}, {"N", "h", "", ""}));
      const py::ssize_t images = keep.back().shape(0), height = keep.back().shape(1);
      require(images == 1 || images == checked.count, "planes", "1 or " + std::to_string(checked.count) + " images",
              std::to_string(images));
      require(height >= raster_.plane_rows[k], "planes", "at least " + std::to_string(raster_.plane_rows[k]) + " rows",
              std::to_string(height));
      planes.push_back({keep.back().data(), images, height});
    }
    reporting_to(report, [&](const auto& told_of) { spx::draw(raster_, checked, planes, threads_, told_of); });
  }

  int workers(int images) const {
    require(images >= 1, "images", "at least 1", std::to_string(images));
    return workers_of(raster_, images, threads_);
  }

 private:
  Raster raster_;
  int threads_;
  mutable std::shared_mutex in_use_;
};

}  // namespace

constexpr auto RENEW =
    R"(Replace the tables' weights, bias and code by others of the same sizes.

Returns whether it did. It does not while another thread draws or evaluates: the engine is then as it was.)";

void define_cpu_engine(py::module_& module) {
  py::class_<RasterEngine>(module, "Raster", "A network lowered to the raster schedule; see spxcore.engines.cpp.")
      .def(py::init<const py::object&, const py::object&>(), py::arg("tables"), py::arg("options"),
           R"(tables: a spxcore.lower.raster.RasterTables. options: a spxcore.engines.cpp.Options.

Raises ValueError for another type of a table, or an index out of range.)")
      .def("renew", method(&RasterEngine::renew), py::arg("weights"), py::arg("bias"), py::arg("code"), RENEW)
      .def("draw", method(&RasterEngine::draw), py::arg("job"), py::arg("report"),
           R"(Draw a spxcore.lower.job.NativeJob of the tables' size.

report: called with the number of pixels since the last call, or None; what it raises stops the drawing.)")
      .def("workers", &RasterEngine::workers, py::arg("images"), "How many threads draw so many images.");
  py::class_<Engine>(module, "Engine", "A compiled network on the processor; see spxcore.engines.cpp.")
      .def(py::init<const py::object&, const py::object&>(), py::arg("tables"), py::arg("options"),
           R"(tables: a spxcore.engines.cpp.Tables. options: a spxcore.engines.cpp.Options.

Raises ValueError for another type of a table, or an index out of range.)")
      .def("renew", method(&Engine::renew), py::arg("weights"), py::arg("bias"), py::arg("code"), RENEW)
      .def("draw", method(&Engine::draw), py::arg("job"), py::arg("report"),
           R"(Draw a spxcore.lower.job.NativeJob; the programs must be spxcore.lower.window.window_programs.

report: called with the number of pixels since the last call, or None; what it raises stops the drawing.)")
      .def("evaluate", method(&Engine::evaluate), py::arg("program"), py::arg("inputs"), py::arg("code"),
           py::arg("narrow") = false,
           R"(The output of a program, by its number, for N windows or images that are known, float32 [N, T, P].

inputs: a list of float32 [N, places, channels]. code: float32 [N, Z], or None where Z is 0.
narrow: with the kernels for one window at a time; the bits are the same.)")
      .def_property_readonly("isa", method(&Engine::isa), "The instruction set it runs with.");
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
        checked_seconds(seconds);
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
        checked_seconds(seconds);
        const py::gil_scoped_release release;
        return kernels && kernels->peak ? kernels->peak(seconds) : 0.0;
      },
      py::arg("seconds") = 0.2,
      "The same of bf16 where it is computed by dot products; 0.0 where it is not, or not known (AMX).");
}

}  // namespace spx
