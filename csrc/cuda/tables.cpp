#include <stdexcept>

#include "cuda/engine.h"

namespace spx::cuda {
namespace {

void check_that(bool good, const char* what, const std::string& expected, int64_t got) {
  if (good) return;
  throw std::invalid_argument(std::string(what) + ": expected " + expected + ", got " + std::to_string(got));
}

void in_range(const char* what, int64_t value, int64_t low, int64_t high) {
  check_that(low <= value && value <= high, what, std::to_string(low) + " to " + std::to_string(high), value);
}

// first .. first + count must lie in 0 .. end.
void within(const char* what, int64_t first, int64_t count, int64_t end) {
  check_that(first >= 0 && count >= 0 && first + count <= end, what, "0 to " + std::to_string(end - count), first);
}

template <typename T>
int64_t length(const std::vector<T>& table) {
  return static_cast<int64_t>(table.size());
}

int64_t places_of(const Input& input) { return static_cast<int64_t>(input.height) * input.width; }

// packed: whether concat_elu of a number is one word.
void check_place(const CudaTables& t, const Product& product, const Place& place, bool packed) {
  const int64_t channels = product.gate == GATE_NONE ? product.columns : product.columns / 2;
  const auto words = [&](const char* what, int32_t first, int64_t count) {
    if (first != -1) within(what, first, count, t.words);
  };
  within("places, bias", place.bias, product.columns, length(t.bias));
  if (place.code != -1) within("places, code", place.code, product.columns, t.code);
  words("places, partial_in", place.partial_in, product.columns);
  words("places, partial_out", place.partial_out, product.columns);
  words("places, residual", place.residual, channels);
  words("places, raw", place.raw, channels);
  in_range("places, form", place.form, FORM_PAIRS, FORM_RELU);
  words("places, activated", place.activated, place.form == FORM_PAIRS && !packed ? 2 * channels : channels);
}

void check_product(const CudaTables& t, const Product& product, bool packed) {
  in_range("products, places", product.places, 1, 1 << 20);
  within("products, place", product.place, product.places, length(t.places));
  within("products, kinds", product.kinds, product.chunks, length(t.kinds));
  within("products, sources", product.sources, static_cast<int64_t>(product.chunks) * product.places,
         length(t.sources));
  in_range("products, gate", product.gate, GATE_NONE, GATE_SIGMOID);
  in_range("products, columns", product.columns, 1, 1 << 16);
  in_range("products, numbers", static_cast<int64_t>(product.places) * product.columns, 1, 1 << 28);
  check_that(product.gate == GATE_NONE || product.columns % 2 == 0, "products, columns", "an even number before a gate",
             product.columns);
  for (int32_t r = product.place; r < product.place + product.places; ++r) check_place(t, product, t.places[r], packed);
  const int64_t tiles = (product.columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
  within("products, weights", product.weights, product.chunks * tiles * TILE_WORDS, length(t.weights));
  check_that(product.weights % 4 == 0, "products, weights", "a multiple of 4", product.weights);
  for (int32_t q = 0; q < product.chunks; ++q) {
    const int32_t count = t.kinds[product.kinds + q] & ~RAW;
    check_that(count >= 1 && count <= CHUNK_WORDS, "kinds", "1 to 16, or 256 more", t.kinds[product.kinds + q]);
    for (int32_t r = 0; r < product.places; ++r) {
      const int32_t source = t.sources[product.sources + static_cast<int64_t>(q) * product.places + r];
      within("sources", source < 0 ? ~source : source, count, t.words);
    }
  }
}

void check_program(const CudaTables& t, int number) {
  const ProgramRow& program = t.programs[number];
  const int m = t.side, i = number / 2;
  if (m > 0) {
    in_range("programs, steps", program.steps, number % 2 ? m : 1, number % 2 ? m : 1);
    in_range("programs, targets", program.targets, program.steps, program.steps);
  } else {
    in_range("programs, steps", program.steps, 0, 0);
  }
  within("programs, part", program.part, program.steps + 2, length(t.parts));
  within("programs, pixel", program.pixel, program.pixel_end - static_cast<int64_t>(program.pixel), length(t.pixels));
  check_that(program.pixel <= program.pixel_current && program.pixel_current <= program.pixel_end,
             "programs, pixel_current", "a place in its pixels", program.pixel_current);
  for (int32_t p = program.pixel; p < program.pixel_end; ++p) {
    const Pixel& pixel = t.pixels[p];
    const bool current = m > 0 && p >= program.pixel_current;
    const int64_t places = m == 0 ? places_of(t.inputs.at(0)) : current ? m : i * m;
    within("pixels, place", int64_t{pixel.place} - (current ? i * m : 0), 1, places);
    within("pixels, row", pixel.row, t.inputs[0].channels, t.words);
  }
  within("programs, told", program.told, program.told_end - static_cast<int64_t>(program.told), length(t.told));
  for (int32_t k = program.told; k < program.told_end; ++k) {
    const Told& told = t.told[k];
    within("told, input", told.input, 1, length(t.inputs) - 1);
    const Input& input = t.inputs[1 + told.input];
    within("told, place", told.place, 1, places_of(input));
    within("told, row", told.row, input.channels, t.words);
  }
  within("programs, params", program.params, program.targets, length(t.params));
  for (int s = 0; s < program.targets; ++s) within("params", t.params[program.params + s], t.parameters, t.words);
  for (int part = program.part; part <= program.part + program.steps; ++part) {
    const int32_t first = t.parts[part], end = t.parts[part + 1];
    within("parts", first, end - static_cast<int64_t>(first), length(t.products));
    check_that(first == end || t.products[first].sync, "products, sync", "1 at the beginning of a part", 0);
    const bool packed = t.precision == Precision::bf16 && part == program.part;
    for (int32_t p = first; p < end; ++p) check_product(t, t.products[p], packed);
  }
}

}  // namespace

void CudaTables::check() const {
  // A kernel counts these for all windows of a block in int32.
  in_range("pixels", length(pixels), 0, 1 << 24);
  in_range("told", length(told), 0, 1 << 24);
  in_range("code_numbers", code, 0, 1 << 26);
  in_range("side", side, 0, 1024);
  in_range("words", words, 1, 1 << 26);
  in_range("parameters", parameters, 1, 1 << 20);
  in_range("inputs", length(inputs), 1, 64);
  for (const Input& input : inputs) {
    in_range("inputs, height", input.height, 1, 1 << 12);
    in_range("inputs, width", input.width, 1, 1 << 12);
    in_range("inputs, channels", input.channels, 1, 1 << 20);
  }
  const int count = side > 0 ? 2 * side : 1;
  in_range("programs", length(programs), count, count);
  if (side > 0) {
    in_range("inputs, height", inputs[0].height, side, side);
    in_range("inputs, width", inputs[0].width, side, side);
    for (size_t k = 2; k < inputs.size(); ++k)
      in_range("inputs, channels", inputs[k].channels, told_numbers(), told_numbers());
  }
  for (int number = 0; number < count; ++number) check_program(*this, number);
}

}  // namespace spx::cuda
