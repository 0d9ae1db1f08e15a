#include <stdexcept>

#include "cuda/engine.h"

namespace spx::cuda {
namespace {

void check_that(bool good, const char* what, const std::string& expected, int64_t got) {
  if (good) return;
  throw std::invalid_argument(std::string(what) + ": expected " + expected + ", got " + std::to_string(got));
}

// first .. first + count must lie in 0 .. end.
void within(const char* what, int64_t first, int64_t count, int64_t end) {
  check_that(first >= 0 && count >= 0 && first + count <= end, what, "0 to " + std::to_string(end - count), first);
}

template <typename T>
int64_t length(const std::vector<T>& table) {
  return static_cast<int64_t>(table.size());
}

// pairs: whether concat_elu of a number is one word.
void check_pass(const Tables& t, const Pass& pass, bool pairs) {
  check_that(pass.rows >= 1 && pass.rows <= 1 << 20, "pass, rows", "1 to 2^20", pass.rows);
  within("pass, row", pass.row, pass.rows, length(t.rows));
  within("pass, kinds", pass.kinds, pass.chunks, length(t.kinds));
  within("pass, sources", pass.sources, static_cast<int64_t>(pass.chunks) * pass.rows, length(t.sources));
  check_that(pass.columns >= 1 && pass.columns <= 1 << 16, "pass, columns", "1 to 65536", pass.columns);
  check_that(!pass.gated || pass.columns % 2 == 0, "pass, columns", "an even number before a gate", pass.columns);
  const int64_t channels = pass.gated ? pass.columns / 2 : pass.columns;
  const int64_t act = pairs ? channels : 2 * channels;
  const auto words = [&](const char* what, int32_t first, int64_t count) {
    if (first != -1) within(what, first, count, t.words);
  };
  for (int32_t r = pass.row; r < pass.row + pass.rows; ++r) {
    const Row& row = t.rows[r];
    within("row, bias", row.bias, pass.columns, length(t.bias));
    if (row.latent != -1) within("row, latent", row.latent, pass.columns, t.latents);
    words("row, partial_in", row.partial_in, pass.columns);
    words("row, partial_out", row.partial_out, pass.columns);
    if (pass.gated && row.partial_out < 0) within("row, residual", row.residual, channels, t.words);
    words("row, raw", row.raw, channels);
    words("row, act", row.act, act);
  }
  const int64_t tiles = (pass.columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
  within("pass, weights", pass.weights, pass.chunks * tiles * TILE_WORDS, length(t.weights));
  check_that(pass.weights % 4 == 0, "pass, weights", "a multiple of 4", pass.weights);
  for (int32_t q = 0; q < pass.chunks; ++q) {
    const int32_t count = t.kinds[pass.kinds + q] & ~RAW;
    check_that(count >= 1 && count <= CHUNK, "kinds", "1 to 16, or 256 more", t.kinds[pass.kinds + q]);
    for (int32_t r = 0; r < pass.rows; ++r) {
      words("sources", t.sources[pass.sources + static_cast<int64_t>(q) * pass.rows + r], count);
    }
  }
}

void check_program(const Tables& t, int number) {
  const Program& program = t.programs[number];
  const int m = t.patch, i = number / 2;
  check_that(program.steps == (number % 2 ? m : 1), "program, steps", number % 2 ? "m" : "1", program.steps);
  within("program, part", program.part, program.steps + 2, length(t.parts));
  within("program, pixels", program.pixel, program.pixel_end - static_cast<int64_t>(program.pixel), length(t.pixels));
  check_that(program.pixel <= program.pixel_current && program.pixel_current <= program.pixel_end,
             "program, pixel_current", "a place in its pixels", program.pixel_current);
  for (int32_t p = program.pixel; p < program.pixel_end; ++p) {
    const Pixel& pixel = t.pixels[p];
    const bool current = p >= program.pixel_current;
    within("pixels, place", pixel.place - (current ? i * m : 0), 1, current ? m : i * m);
    within("pixels, word", pixel.word, t.channels, t.words);
  }
  within("program, conditioning", program.conditioning,
         program.conditioning_end - static_cast<int64_t>(program.conditioning), length(t.conditioning));
  for (int32_t c = program.conditioning; c < program.conditioning_end; ++c) {
    const Conditioning& what = t.conditioning[c];
    within("conditioning, resolution", what.resolution, 1, 3);
    const int side = m >> what.resolution;
    within("conditioning, place", what.place, 1, side * side);
    within("conditioning, word", what.word, t.place_inputs, t.words);
  }
  within("program, params", program.params, program.steps, length(t.params));
  for (int s = 0; s < program.steps; ++s) within("params", t.params[program.params + s], t.parameters, t.words);
  for (int part = program.part; part <= program.part + program.steps; ++part) {
    const int32_t first = t.parts[part], end = t.parts[part + 1];
    within("parts", first, end - static_cast<int64_t>(first), length(t.passes));
    check_that(first == end || t.passes[first].sync, "pass, sync", "1 at the beginning of a part", 0);
    const bool pairs = t.precision == Precision::bf16 && part == program.part;
    for (int32_t p = first; p < end; ++p) check_pass(t, t.passes[p], pairs);
  }
}

}  // namespace

void Tables::check() const {
  check_that(words >= 1 && words <= 1 << 26, "words", "1 to 2^26", words);
  check_that(length(programs) == 2 * patch, "programs", std::to_string(2 * patch), length(programs));
  for (int number = 0; number < 2 * patch; ++number) check_program(*this, number);
}

}  // namespace spx::cuda
