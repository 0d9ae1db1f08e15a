// Checks of what Python hands to the native modules: every mistake is a ValueError that says name, expected and got.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <cstdint>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "sizes.h"

namespace spx {

namespace py = pybind11;

using Shape = std::vector<py::ssize_t>;
template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// "name: expected ..., got ...".
inline void require(bool good, const std::string& name, const std::string& expected, const std::string& got) {
  if (!good) throw py::value_error(name + ": expected " + expected + ", got " + got);
}

inline std::string text_of(const py::handle& value) { return std::string(py::str(value)); }

// "[3, 4]"; a size of -1, which may be anything, is written as its name.
inline std::string shape_text(const Shape& shape, const std::vector<std::string>& names = {}) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i ? ", " : "") + (shape[i] < 0 ? names.at(i) : std::to_string(shape[i]));
  }
  return text + "]";
}

// What an object is, for a message: "int64 [3, 4]", or its type.
inline std::string kind_of(const py::handle& value) {
  if (!py::isinstance<py::array>(value)) return text_of(py::type::handle_of(value).attr("__name__"));
  const auto array = py::reinterpret_borrow<py::array>(value);
  return text_of(array.dtype()) + " " + shape_text(Shape(array.shape(), array.shape() + array.ndim()));
}

// Whether an array has this shape; -1 stands for any size.
inline bool fits(const py::array& array, const Shape& shape) {
  bool good = array.ndim() == static_cast<py::ssize_t>(shape.size());
  for (size_t i = 0; good && i < shape.size(); ++i) good = shape[i] < 0 || shape[i] == array.shape(i);
  return good;
}

// Bytes of an array of T of that shape, SIZE_MAX if that is no number.
template <typename T>
size_t bytes_of(const Shape& shape) {
  size_t bytes = sizeof(T);
  for (const py::ssize_t size : shape) bytes = product_of({bytes, static_cast<size_t>(size)});
  return bytes;
}

// A new array; raises MemoryError for one that this machine cannot hold.
template <typename T>
py::array_t<T> new_array(const std::string& name, const Shape& shape) {
  require_memory(name, bytes_of<T>(shape));
  return py::array_t<T>(shape);
}

inline bool is_aligned(const py::array& array, size_t alignment) {
  return reinterpret_cast<uintptr_t>(array.data()) % alignment == 0;
}

// `value` as a C-contiguous, aligned array of T, copied only if its layout asks for it.
//
// `shape` gives the expected sizes, -1 for any; `names` says in the message what a free size is called. Raises
// MemoryError for a copy that does not fit: an array whose strides are 0 may be larger than all memory.
template <typename T>
Array<T> checked_array(const std::string& name, const py::handle& value, const Shape& shape,
                       const std::vector<std::string>& names = {}) {
  const bool good = py::isinstance<py::array_t<T>>(value) && fits(py::reinterpret_borrow<py::array>(value), shape);
  require(good, name, "a " + text_of(py::dtype::of<T>()) + " numpy array " + shape_text(shape, names), kind_of(value));
  const auto given = py::reinterpret_borrow<py::array>(value);
  const bool as_it_is = given.flags() & py::array::c_style && is_aligned(given, alignof(T));
  if (!as_it_is) require_memory(name, bytes_of<T>(Shape(given.shape(), given.shape() + given.ndim())));
  const Array<T> array(py::reinterpret_borrow<py::object>(value));  // throws what NumPy raises
  return is_aligned(array, alignof(T)) ? array : Array<T>(py::object(array.attr("copy")("C")));
}

// A checked array of finite numbers.
inline Array<float> finite_array(const std::string& name, const py::handle& value, const Shape& shape,
                                 const std::vector<std::string>& names = {}) {
  Array<float> array = checked_array<float>(name, value, shape, names);
  bool finite = true;  // of all numbers, without a branch for each: there may be millions
  for (py::ssize_t i = 0; i < array.size(); ++i) finite &= std::isfinite(array.data()[i]);
  require(finite, name, "finite numbers", "NaN or infinity");
  return array;
}

// An array that is written, a mapped file perhaps: of exactly this type and shape, C-contiguous and writable.
template <typename T>
Array<T> writable_array(const std::string& name, const py::handle& value, const Shape& shape) {
  Array<T> array = checked_array<T>(name, value, shape);
  const auto given = py::reinterpret_borrow<py::array>(value);
  require(array.data() == given.data(), name, "a C-contiguous, aligned array", "another layout");
  require(given.writeable(), name, "a writable array", "one that is read-only");
  return array;
}

// `value` as a Python int; null for what is no whole number.
inline py::object whole_number(const py::handle& value) {
  auto whole = py::reinterpret_steal<py::object>(PyBool_Check(value.ptr()) ? nullptr : PyNumber_Index(value.ptr()));
  PyErr_Clear();
  return whole;
}

inline int64_t checked_whole(const std::string& name, const py::handle& value, int64_t low, int64_t high) {
  const py::object whole = whole_number(value);
  int overflow = 0;
  const int64_t number = whole ? PyLong_AsLongLongAndOverflow(whole.ptr(), &overflow) : 0;
  require(whole && !overflow && number >= low && number <= high, name,
          "a whole number, " + std::to_string(low) + " to " + std::to_string(high), text_of(py::repr(value)));
  return number;
}

inline uint64_t checked_seed(const py::handle& value, const std::string& name = "seed") {
  const py::object whole = whole_number(value);
  const uint64_t number = whole ? PyLong_AsUnsignedLongLong(whole.ptr()) : 0;
  const bool good = whole && !PyErr_Occurred();
  PyErr_Clear();
  require(good, name, "a whole number, 0 to 2^64 - 1", text_of(py::repr(value)));
  return number;
}

// A normal float, more than 0.
inline float checked_positive(const std::string& name, const py::handle& value) {
  const double number = PyFloat_AsDouble(value.ptr());
  const auto single = static_cast<float>(number);
  const bool good = !PyErr_Occurred() && std::isnormal(single) && single > 0;
  PyErr_Clear();
  require(good, name, "a finite number, more than 0", text_of(py::repr(value)));
  return single;
}

// The C++ object of a Python object; pybind11 would make up memory for one that was never initialised (`__new__`
// alone).
template <typename Class>
Class& made(const py::object& self) {
  const bool good = py::isinstance<Class>(self) &&
                    reinterpret_cast<py::detail::instance*>(self.ptr())->get_value_and_holder().holder_constructed();
  if (!good) throw py::type_error("self: expected an initialised object, got another");
  return self.cast<Class&>();
}

// A method for pybind11, whose object is looked at first.
template <typename Class, typename Result, typename... Arguments>
auto method(Result (Class::*function)(Arguments...) const) {
  return [function](const py::object& self, Arguments... arguments) -> Result {
    return (made<Class>(self).*function)(std::forward<Arguments>(arguments)...);
  };
}
template <typename Class, typename Result, typename... Arguments>
auto method(Result (Class::*function)(Arguments...)) {
  return [function](const py::object& self, Arguments... arguments) -> Result {
    return (made<Class>(self).*function)(std::forward<Arguments>(arguments)...);
  };
}

// Runs work(report) without the GIL. report(pixels) hands the number on to `progress`, a Python function or None, and
// says whether to go on. What Python raises, Ctrl-C included, ends the work and is raised from here.
template <typename Work>
void reporting_to(const py::object& progress, Work work) {
  require(progress.is_none() || PyCallable_Check(progress.ptr()), "report", "a function, or None", kind_of(progress));
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

}  // namespace spx
