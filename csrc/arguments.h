// Checks of what Python hands to the native modules: every mistake is a ValueError that says name, expected and got.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "draw.h"

namespace spx {

namespace py = pybind11;

// "[3, 4]"; a dimension of -1, which may be anything, is written as its name.
inline std::string shape_text(const std::vector<py::ssize_t>& shape, const std::vector<std::string>& names = {}) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i ? ", " : "") + (shape[i] < 0 ? names.at(i) : std::to_string(shape[i]));
  }
  return text + "]";
}

// `value` as a C-contiguous array of T, copied only if its layout asks for it.
//
// `shape` gives the expected sizes, -1 for any; `names` says in the message what a free size is called.
template <typename T>
py::array_t<T, py::array::c_style> checked_array(const char* name, const py::object& value,
                                                 const std::vector<py::ssize_t>& shape,
                                                 const std::vector<std::string>& names) {
  const std::string dtype = py::str(static_cast<py::object>(py::dtype::of<T>()));
  const std::string expected = std::string(name) + ": expected a " + dtype + " numpy array " + shape_text(shape, names);
  if (!py::isinstance<py::array>(value)) {
    throw py::value_error(expected + ", got " + std::string(py::str(py::type::of(value).attr("__name__"))));
  }
  const auto array = py::reinterpret_borrow<py::array>(value);
  const std::vector<py::ssize_t> got(array.shape(), array.shape() + array.ndim());
  bool fits = got.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == got[i];
  if (!fits || !py::isinstance<py::array_t<T>>(array)) {
    throw py::value_error(expected + ", got " + std::string(py::str(static_cast<py::object>(array.dtype()))) + " " +
                          shape_text(got));
  }
  return py::array_t<T, py::array::c_style>::ensure(array);
}

inline uint64_t checked_seed(const py::int_& seed) {
  const unsigned long long value = PyLong_AsUnsignedLongLong(seed.ptr());
  if (PyErr_Occurred()) {
    PyErr_Clear();
    throw py::value_error("seed: expected an integer from 0 to 2**64 - 1, got " + std::string(py::str(seed)));
  }
  return value;
}

// Runs work(report) without the GIL. report(pixels) hands the number on to `progress`, a Python function or None, and
// says whether to go on. What Python raises, Ctrl-C included, ends the work and is raised from here.
template <typename Work>
void reporting_to(const py::object& progress, Work work) {
  std::exception_ptr raised;
  {
    const py::gil_scoped_release release;
    work([&](int64_t pixels) {
      const py::gil_scoped_acquire acquire;
      if (raised) return false;
      try {
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (pixels > 0 && !progress.is_none()) progress(pixels);
        return true;
      } catch (...) {
        raised = std::current_exception();
        return false;
      }
    });
  }
  if (raised) std::rethrow_exception(raised);
}

// The checked arguments of draw(), which both native modules have.
struct DrawArguments {
  py::array_t<float, py::array::c_style> params;                    // [N, P]
  py::array_t<uint32_t, py::array::c_style> rows, columns, images;  // [N] each
  int64_t pixels;                                                   // N
  int channels, components;                                         // C, K
  uint64_t seed;
  float temperature;
  bool map;

  DrawArguments(const py::object& params_, int channels_, const py::int_& seed_, const py::object& rows_,
                const py::object& columns_, const py::object& images_, double temperature_, bool map_)
      : params(checked_array<float>("params", params_, {-1, -1}, {"N", "P"})),
        rows(checked_array<uint32_t>("rows", rows_, {params.shape(0)}, {})),
        columns(checked_array<uint32_t>("columns", columns_, {params.shape(0)}, {})),
        images(checked_array<uint32_t>("images", images_, {params.shape(0)}, {})),
        pixels(params.shape(0)),
        channels(channels_),
        components(0),
        seed(checked_seed(seed_)),
        temperature(static_cast<float>(temperature_)),
        map(map_) {
    const int each = parameters_per_component(channels);
    if (each == 0) throw py::value_error("channels: expected 1 or 3, got " + std::to_string(channels));
    const py::ssize_t parameters = params.shape(1);
    if (parameters == 0 || parameters % each != 0 || parameters > 1000000) {
      throw py::value_error("params: expected a second dimension of " + std::to_string(each) + " * components for " +
                            std::to_string(channels) + " channel(s), got " + shape_text({pixels, parameters}));
    }
    components = static_cast<int>(parameters / each);
    if (!std::isfinite(temperature) || temperature <= 0.0f) {
      throw py::value_error("temperature: expected a finite number > 0, got " + std::to_string(temperature_));
    }
  }

  py::array_t<uint8_t> new_levels() const {
    return py::array_t<uint8_t>(std::vector<py::ssize_t>{static_cast<py::ssize_t>(pixels), channels});
  }
};

// Puts draw() into a module. Both have the same signature and text; `function` takes what DrawArguments checks.
template <typename Function>
void define_draw(py::module_& module, Function function) {
  module.def("draw", function, py::arg("params"), py::arg("channels"), py::arg("seed"), py::arg("rows"),
             py::arg("columns"), py::arg("images"), py::arg("temperature") = 1.0, py::arg("map") = false,
             R"(Draw pixels from their mixtures of discretised logistics: spxcore.mixture.draw's native twin.

params: float32 [N, P], a pixel's network output: logits [K], means [C][K], log_scales [C][K] and, for 3 channels,
    coeffs [3][K] before tanh. P = 3K for 1 channel, 10K for 3.
channels: 1 or 3.
seed: 0 to 2**64 - 1.
rows, columns, images: uint32 [N] each, the pixel's place and image index, which with the seed fix its random numbers.
temperature: > 0, scales the logistic's scale.
map: take the mode of the drawn component instead of a logistic draw.

Returns uint8 [N, channels]. Raises ValueError for a wrong shape, dtype or range. A NaN never makes it fail: a value
that comes out as NaN has level 0.)");
}

}  // namespace spx
