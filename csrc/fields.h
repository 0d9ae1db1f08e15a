// A Python object's named fields as checked C++ values. Every number is checked here, and only here.
#pragma once

#include <limits>
#include <map>

#include "arguments.h"
#include "job.h"
#include "tables.h"

namespace spx {

// Lets pybind11 compare NumPy's structured types with the structs of tables.h. The native modules share its registry.
inline void register_tables() {
  try {
    py::dtype::of<Op>();
  } catch (const std::runtime_error&) {
    PYBIND11_NUMPY_DTYPE(Op, bias, code, partial_in, partial_out, residual, residual_ahead, raw, activated, outputs,
                         tap_begin, tap_end, gate, form);
    PYBIND11_NUMPY_DTYPE(Tap, source, weights, inputs, pairs);
    PYBIND11_NUMPY_DTYPE(Pixel, place, row);
    PYBIND11_NUMPY_DTYPE(Told, input, place, row);
    PYBIND11_NUMPY_DTYPE(Input, height, width, channels);
    PYBIND11_NUMPY_DTYPE(Block, first, inputs, outputs);
    PYBIND11_NUMPY_DTYPE(Ring, channels, form, width, left, right, depth, rise);
    PYBIND11_NUMPY_DTYPE(RingRow, ring, row);
    PYBIND11_NUMPY_DTYPE(RasterStage, outputs, gate, code, raw, activated, residual);
    PYBIND11_NUMPY_DTYPE(RasterOp, stage, row, first, step, count, bias, tap_begin, tap_late, tap_end, waits);
    PYBIND11_NUMPY_DTYPE(RasterTap, ring, row, column, step, weights, inside, inside_end);
    PYBIND11_NUMPY_DTYPE(RasterStep, op, place);
    PYBIND11_NUMPY_DTYPE(Kind, op, op_end, load, load_end);
    PYBIND11_NUMPY_DTYPE(cuda::ProgramRow, part, steps, pixel, pixel_current, pixel_end, told, told_end, params,
                         targets);
    PYBIND11_NUMPY_DTYPE(cuda::Product, place, places, weights, chunks, kinds, sources, columns, gate, sync);
    PYBIND11_NUMPY_DTYPE(cuda::Place, bias, code, partial_in, partial_out, residual, raw, activated, form);
  }
}

// The columns of a structured type, as people read them: "code int32 at byte 4".
inline std::vector<std::string> columns_of(const py::dtype& type) {
  std::vector<std::string> columns;
  if (!type.has_fields()) return columns;
  for (const py::handle name : type.attr("names")) {
    const py::tuple field = type.attr("fields")[name];
    columns.push_back(text_of(name) + " " + text_of(field[0]) + " at byte " + text_of(field[1]));
  }
  return columns;
}

// The fields of one object; it keeps alive every array that it gave a pointer into.
class Fields {
 public:
  // prefix: stands before the fields' names in messages.
  explicit Fields(py::object from, std::string prefix = "") : from_(std::move(from)), prefix_(std::move(prefix)) {}

  py::object get(const char* name) const {
    require(py::hasattr(from_, name), prefix_ + name, "a field", "none");
    return from_.attr(name);
  }
  bool is_none(const char* name) const { return get(name).is_none(); }

  Fields inner(const char* name) const { return Fields(get(name), prefix_ + name + "."); }

  // An array of this shape, as of checked_array; float numbers are finite. `got` takes its sizes.
  template <typename T>
  const T* take(const char* name, const Shape& shape, const std::vector<std::string>& names = {},
                Shape* got = nullptr) {
    Array<T> array;
    if constexpr (std::is_floating_point_v<T>) {
      array = finite_array(prefix_ + name, get(name), shape, names);
    } else {
      array = checked_array<T>(prefix_ + name, get(name), shape, names);
    }
    if (got) got->assign(array.shape(), array.shape() + array.ndim());
    const T* data = array.data();
    keep(name, std::move(array), false);
    return data;
  }

  // The same, null for what must not be there.
  template <typename T>
  const T* take_if(bool wanted, const char* name, const Shape& shape, const std::vector<std::string>& names = {},
                   Shape* got = nullptr) {
    if (wanted) return take<T>(name, shape, names, got);
    require(is_none(name), prefix_ + name, "None for this network", kind_of(get(name)));
    return nullptr;
  }

  // An array to write into.
  template <typename T>
  T* write(const char* name, const Shape& shape) {
    Array<T> array = writable_array<T>(prefix_ + name, get(name), shape);
    T* data = array.mutable_data();
    keep(name, std::move(array), true);
    return data;
  }

  // Refuses an array to write into that shares memory with another of the arrays taken so far.
  void check_apart() const {
    for (const Kept& a : keep_) {
      for (const Kept& b : keep_) {
        const bool apart = &a == &b || a.end() <= b.begin() || b.end() <= a.begin();
        require(!a.written || apart, prefix_ + a.name, "memory of its own", "memory of " + b.name + " too");
      }
    }
  }

  // A copy of an array's numbers; float numbers are finite. `got` takes its sizes.
  template <typename T>
  std::vector<T> copy(const char* name, const Shape& shape, const std::vector<std::string>& names = {},
                      Shape* got = nullptr) const {
    Array<T> array;
    if constexpr (std::is_floating_point_v<T>) {
      array = finite_array(prefix_ + name, get(name), shape, names);
    } else {
      array = checked_array<T>(prefix_ + name, get(name), shape, names);
    }
    constexpr int64_t MOST = std::numeric_limits<int32_t>::max();  // indices into tables are int32
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
      require(array.shape(axis) <= MOST, prefix_ + name, "at most 2^31 - 1 entries", std::to_string(array.shape(axis)));
    }
    if (got) got->assign(array.shape(), array.shape() + array.ndim());
    return std::vector<T>(array.data(), array.data() + array.size());
  }

  // A copy of a table: names, types and offsets of its columns are those of the struct.
  template <typename Struct>
  std::vector<Struct> rows(const char* name) const {
    const py::object value = get(name);
    const auto expected = columns_of(py::dtype::of<Struct>());
    require(py::isinstance<py::array>(value), prefix_ + name, "a numpy array of structs", kind_of(value));
    const auto array = py::reinterpret_borrow<py::array>(value);
    const auto got = columns_of(array.dtype());
    for (size_t i = 0; i < expected.size(); ++i) {
      require(i < got.size() && got[i] == expected[i], prefix_ + name, "column " + expected[i],
              i < got.size() ? got[i] : kind_of(value));
    }
    require(got.size() == expected.size() && array.itemsize() == static_cast<py::ssize_t>(sizeof(Struct)),
            prefix_ + name, std::to_string(expected.size()) + " columns", std::to_string(got.size()));
    return copy<Struct>(name, {-1}, {"N"});
  }

  int64_t whole(const char* name, int64_t low, int64_t high) const {
    return checked_whole(prefix_ + name, get(name), low, high);
  }
  uint64_t seed(const char* name) const { return checked_seed(get(name), prefix_ + name); }
  float positive(const char* name) const { return checked_positive(prefix_ + name, get(name)); }

  bool flag(const char* name) const {
    const py::object value = get(name);
    require(py::isinstance<py::bool_>(value), prefix_ + name, "True or False", text_of(py::repr(value)));
    return value.cast<bool>();
  }

  std::string text(const char* name) const {
    const py::object value = get(name);
    require(py::isinstance<py::str>(value), prefix_ + name, "a str", text_of(py::repr(value)));
    return value.cast<std::string>();
  }

  // The value that one of a few names stands for.
  template <typename T>
  T one_of(const char* name, const std::map<std::string, T>& choices) const {
    const std::string chosen = text(name);
    std::string names;
    for (const auto& choice : choices) names += (names.empty() ? "" : " or ") + choice.first;
    require(choices.count(chosen) > 0, prefix_ + name, names, "'" + chosen + "'");
    return choices.at(chosen);
  }

 private:
  struct Kept {
    std::string name;
    py::array array;
    bool written;
    const char* begin() const { return static_cast<const char*>(array.data()); }
    const char* end() const { return begin() + array.nbytes(); }
  };

  void keep(const char* name, py::array array, bool written) { keep_.push_back({name, std::move(array), written}); }

  py::object from_;
  std::string prefix_;
  std::vector<Kept> keep_;
};

// A head's kind and sizes: spxcore.heads.
inline Head read_head(const Fields& from) {
  Head head{};
  head.softmax = from.one_of<bool>("kind", {{"logistics", false}, {"softmax", true}});
  head.channels = static_cast<int32_t>(from.whole("channels", 1, 3));
  require(head.channels == 1 || (head.channels == 3 && !head.softmax), "head.channels", head.softmax ? "1" : "1 or 3",
          std::to_string(head.channels));
  head.components = head.softmax ? 0 : static_cast<int32_t>(from.whole("components", 1, 1 << 16));
  head.levels = static_cast<int32_t>(from.whole("levels", 2, 256));
  return head;
}

// A network that draws windows, as far as a job has to fit it.
struct WindowSizes {
  int32_t side;        // m
  int32_t pixel;       // numbers the network sees of a pixel: C * e
  int32_t told;        // D, numbers a place is told; 0 where there is no other input
  int32_t code;        // numbers of an image's code
  int32_t parameters;  // P
};

// A job of spxcore/lower/job.py; `from` has to outlive it.
inline Job read_job(Fields& from, const WindowSizes& sizes) {
  constexpr int64_t LARGEST = 1 << 20;
  Job job{};
  Shape got;
  job.height = static_cast<int32_t>(from.whole("height", sizes.side, LARGEST));
  job.width = static_cast<int32_t>(from.whole("width", sizes.side, LARGEST));
  job.seed = from.seed("seed");
  job.draw = static_cast<uint32_t>(from.whole("draw", 0, std::numeric_limits<uint32_t>::max()));
  job.images = from.take<uint32_t>("images", {-1}, {"N"}, &got);
  const py::ssize_t n = got[0];
  require(n >= 1 && n <= 1 << 24, "images", "1 to 2^24", std::to_string(n));
  job.count = static_cast<int32_t>(n);
  job.code = from.take_if<float>(sizes.code > 0, "code", {n, sizes.code});

  const auto one_or_all = [&](const char* name, py::ssize_t images) {
    require(images == 1 || images == n, name, "1 or " + std::to_string(n) + " images", std::to_string(images));
    return static_cast<int32_t>(images);
  };
  job.y_axis = from.take<float>("y_axis", {job.height});
  job.x_axis = from.take<float>("x_axis", {job.width});
  job.extra = from.take<float>("extra", {-1}, {"E"}, &got);
  require(got[0] <= LARGEST, "extra", "at most 2^20 numbers", std::to_string(got[0]));
  job.extra_count = static_cast<int32_t>(got[0]);
  if (!from.is_none("maps")) {
    job.maps = from.take<float>("maps", {-1, -1, -1, -1}, {"N", "M", "h", "w"}, &got);
    for (const py::ssize_t size : got) require(size >= 1 && size <= LARGEST, "maps", "no empty axis", shape_text(got));
    job.map_images = one_or_all("maps", got[0]), job.map_count = static_cast<int32_t>(got[1]);
    job.map_height = static_cast<int32_t>(got[2]), job.map_width = static_cast<int32_t>(got[3]);
  }
  const int64_t told = sizes.told == 0 ? 0 : int64_t{2} + job.extra_count + job.map_count;
  require(told == sizes.told, "extra and maps", std::to_string(sizes.told) + " numbers a place, y and x among them",
          std::to_string(told));

  job.head = read_head(from.inner("head"));
  require(parameters_of(job.head) == sizes.parameters, "head", std::to_string(sizes.parameters) + " parameters",
          std::to_string(parameters_of(job.head)));
  job.table = from.take<float>("table", {job.head.levels, -1}, {"", "e"}, &got);
  require(got[1] <= LARGEST && got[1] * job.head.channels == sizes.pixel, "table",
          std::to_string(sizes.pixel) + " numbers a pixel",
          std::to_string(job.head.channels) + " channels of " + std::to_string(got[1]) + " numbers");
  job.embedding = static_cast<int32_t>(got[1]);
  job.temperature = from.positive("temperature");
  job.mode = from.flag("mode");

  if (!from.is_none("given")) {
    // NumPy lets a bool be any byte, C++ does not.
    job.given =
        reinterpret_cast<const uint8_t*>(from.take<bool>("given", {-1, job.height, job.width}, {"N", "", ""}, &got));
    job.given_images = one_or_all("given", got[0]);
  }
  job.pixels = from.write<uint8_t>("pixels", {n, job.height, job.width, job.head.channels});
  job.finished = from.write<int64_t>("finished", {n});
  if (!from.is_none("params")) {
    job.params = from.write<float>("params", {n, job.height, job.width, sizes.parameters});
  }
  from.check_apart();
  return job;
}

}  // namespace spx
