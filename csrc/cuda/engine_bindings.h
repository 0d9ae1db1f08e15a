// The cuda engine as Python sees it, on a device (spxcore._cuda) or emulated (spxcore._native): spxcore/engines/cuda.py
// is the only caller.
#pragma once

#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include "cuda/engine.h"
#include "fields.h"

namespace spx::cuda {

inline CudaTables read_tables(const Fields& from) {
  constexpr int64_t LARGEST = std::numeric_limits<int32_t>::max();
  CudaTables t;
  const auto whole = [&](const char* name) { return static_cast<int32_t>(from.whole(name, 0, LARGEST)); };
  t.side = whole("side"), t.parameters = whole("parameters"), t.words = whole("words"), t.code = whole("code_numbers");
  t.precision = from.one_of<Precision>(
      "precision", {{"fp32", Precision::fp32}, {"tf32", Precision::tf32}, {"bf16", Precision::bf16}});
  t.programs = from.rows<ProgramRow>("programs");
  t.inputs = from.rows<Input>("inputs");
  t.parts = from.copy<int32_t>("parts", {-1}, {"N"});
  t.products = from.rows<Product>("products");
  t.places = from.rows<Place>("places");
  t.kinds = from.copy<int32_t>("kinds", {-1}, {"N"});
  t.sources = from.copy<int32_t>("sources", {-1}, {"N"});
  t.weights = from.copy<uint32_t>("weights", {-1}, {"N"});
  t.bias = from.copy<float>("bias", {-1}, {"N"});
  t.pixels = from.rows<Pixel>("pixels");
  t.told = from.rows<Told>("told");
  t.params = from.copy<int32_t>("params", {-1}, {"N"});
  t.check();  // std::invalid_argument becomes a ValueError
  return t;
}

inline Options read_options(const Fields& from) {
  const auto whole = [&](const char* name, int64_t most) { return static_cast<int>(from.whole(name, 0, most)); };
  return {whole("device", 1 << 10), whole("blocks", 1 << 16),    whole("warps", 32),
          whole("windows", 64),     whole("patience", PATIENCE), from.flag("poison")};
}

// `Runner` is Device or Emulation.
template <typename Runner>
class Engine {
 public:
  Engine(const py::object& tables, const py::object& options)
      : Engine(read_tables(Fields(tables)), read_options(Fields(options))) {}

  void draw(const py::object& from, const py::object& report) {
    require(sizes_.side > 0, "tables", "those of a window", "those of a network that is evaluated only");
    Fields fields(from);
    const Job job = read_job(fields, sizes_);
    require_idle();
    std::fill_n(job.finished, job.count, 0);
    reporting_to(report, [&](const auto& tell) {
      const Alone alone(*this);
      runner_.draw(job, tell);
    });
  }

  py::array_t<float> evaluate(const py::list& inputs, const py::object& code) {
    require(sizes_.side == 0, "tables", "those of a network that is evaluated only", "those of a window");
    require(inputs.size() == inputs_.size(), "inputs", std::to_string(inputs_.size()) + " arrays",
            std::to_string(inputs.size()));
    std::vector<Array<float>> keep;
    std::vector<const float*> data;
    py::ssize_t n = -1;
    for (size_t k = 0; k < inputs_.size(); ++k) {
      const Input& input = inputs_[k];
      const py::ssize_t places = static_cast<py::ssize_t>(input.height) * input.width;
      keep.push_back(finite_array("inputs", inputs[k], {n, places, input.channels}, {"N", "", ""}));
      data.push_back(keep.back().data());
      n = keep.back().shape(0);
    }
    const auto numbers = finite_array("code", code, {n, sizes_.code}, {"N", ""});
    auto params = new_array<float>("params", {n, targets_, sizes_.parameters});
    const Known known{n, data.data(), numbers.data(), params.mutable_data()};
    require_idle();
    if (n > 0) {
      const py::gil_scoped_release release;
      const Alone alone(*this);
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

  size_t free_bytes() const { return runner_.free_bytes(); }

 private:
  Engine(CudaTables tables, Options options)
      : sizes_{tables.side, tables.pixel_numbers(), tables.told_numbers(), tables.code, tables.parameters},
        inputs_(tables.inputs),
        targets_(tables.programs[0].targets),
        runner_(std::move(tables), options) {}

  // Holds the runner, whose arenas serve one call at a time, for this thread.
  class Alone {
   public:
    explicit Alone(Engine& engine) : lock_(engine.mutex_), holder_(engine.holder_) {
      holder_.store(std::this_thread::get_id());
    }
    ~Alone() { holder_.store(std::thread::id()); }

   private:
    const std::lock_guard<std::mutex> lock_;
    std::atomic<std::thread::id>& holder_;
  };

  // A call from a drawing's own report would wait for ever.
  void require_idle() const {
    require(holder_.load() != std::this_thread::get_id(), "report", "a function that does not use the same engine",
            "one that does");
  }

  WindowSizes sizes_;
  std::vector<Input> inputs_;
  py::ssize_t targets_;
  Runner runner_;
  std::mutex mutex_;
  std::atomic<std::thread::id> holder_{};  // the thread that draws or evaluates
};

template <typename Runner>
void define_engine(py::module_& module, const char* name, const char* doc) {
  using Type = Engine<Runner>;
  py::class_<Type>(module, name, doc)
      .def(py::init<const py::object&, const py::object&>(), py::arg("tables"), py::arg("options"),
           R"(tables: a spxcore.lower.passes.Products. options: a spxcore.engines.cuda.Options.

Raises ValueError for an index out of range, MemoryError for a network that does not fit the device.)")
      .def("draw", method(&Type::draw), py::arg("job"), py::arg("report"),
           R"(Draw a spxcore.lower.job.NativeJob whose code is U z, float32 [N, L], on its pixels, finished and params.

report: called with the number of pixels since the last call, or None; what it raises stops the drawing.)")
      .def("evaluate", method(&Type::evaluate), py::arg("inputs"), py::arg("code"),
           R"(The network's output, float32 [N, places, P].

inputs: float32 [N, places, channels] of each. code: float32 [N, L], U z.)")
      .def_property_readonly("options", method(&Type::options), "device, blocks, warps and windows that it runs with.")
      .def_property_readonly("free_bytes", method(&Type::free_bytes), "Bytes of the device's memory that nobody uses.");
}

}  // namespace spx::cuda
