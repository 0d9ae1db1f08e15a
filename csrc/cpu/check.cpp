#include <algorithm>
#include <stdexcept>
#include <unordered_map>

#include "program.h"

namespace spx {
namespace {

class Checker {
 public:
  Checker(const Model& model, const Program& program, int number, const std::unordered_map<int32_t, Block>& blocks)
      : model_(model), program_(program), prefix_("program " + std::to_string(number) + ": "), blocks_(blocks) {}

  void run() const {
    const auto targets = static_cast<int64_t>(program_.targets.size());
    const auto ops = static_cast<int64_t>(program_.ops.size());
    check(program_.rows >= 1 && program_.rows <= 1 << 26, "rows", "1 to 2^26", program_.rows);
    const auto& begins = program_.begins;
    check(begins.size() >= 2 && begins.front() == 0 && begins.back() == ops &&
              std::is_sorted(begins.begin(), begins.end()),
          "begins", "rising from 0 to the number of ops", static_cast<int64_t>(begins.size()));
    check(targets >= 1 && (program_.steps() == 0 || program_.steps() == targets), "begins", "no step or one a target",
          program_.steps());
    check(static_cast<int64_t>(program_.params.size()) == targets, "params", "one row a target",
          static_cast<int64_t>(program_.params.size()));
    for (const int32_t target : program_.targets) within("targets", target, 1, model_.places);
    for (const int32_t row : program_.params) within("params", row, model_.parameters, program_.rows);
    for (const Pixel& pixel : program_.pixels) check_input("pixels", 0, pixel.place, pixel.row);
    for (const Told& told : program_.told) {
      within("told, input", told.input, 1, static_cast<int64_t>(model_.inputs.size()) - 1);
      check_input("told", 1 + told.input, told.place, told.row);
    }
    for (const Op& op : program_.ops) check_op(op);
  }

 private:
  void check(bool good, const char* what, const std::string& expected, int64_t got) const {
    if (!good) check_that(false, prefix_ + what, expected, got);
  }

  // first .. first + count must lie in 0 .. end.
  void within(const char* what, int64_t first, int64_t count, int64_t end) const {
    check(first >= 0 && first + count <= end, what, "0 to " + std::to_string(end - count), first);
  }

  void check_input(const char* what, int number, int32_t place, int32_t row) const {
    const Input& input = model_.inputs[number];
    within((std::string(what) + ", place").c_str(), place, 1, int64_t{input.height} * input.width);
    within((std::string(what) + ", row").c_str(), row, input.channels, program_.rows);
  }

  void check_op(const Op& op) const {
    check(op.gate >= GATE_NONE && op.gate <= GATE_TANH, "op, gate", "0 to 2", op.gate);
    const bool tanh = op.gate == GATE_TANH;
    check(tanh ? op.form == FORM_GATED : op.form == FORM_PAIRS || op.form == FORM_RELU, "op, form",
          "0 or 1, 3 after gate 2", op.form);
    check(!tanh || !has_residual(op), "op, residual", "none after gate 2", op.residual);
    check(op.outputs >= 1 && op.outputs <= 1 << 16, "op, outputs", "1 to 65536", op.outputs);
    check(!is_gated(op) || op.outputs % 2 == 0, "op, outputs", "an even number before a gate", op.outputs);
    const int channels = channels_of(op);
    within("op, bias", op.bias, op.outputs, static_cast<int64_t>(model_.bias.size()));
    const auto unused_or_within = [&](const char* what, int32_t first, int64_t count, int64_t end) {
      if (first != -1) within(what, first, count, end);
    };
    unused_or_within("op, code", op.code, op.outputs, model_.code_outputs);
    const auto row = [&](const char* what, int32_t first, int64_t count) {
      unused_or_within(what, first, count, program_.rows);
    };
    row("op, partial_in", op.partial_in, op.outputs);
    row("op, partial_out", op.partial_out, op.outputs);
    row("op, residual", op.residual, channels);
    row("op, residual_ahead", op.residual_ahead, channels);
    row("op, raw", op.raw, raw_rows(op));
    row("op, activated", op.activated, activated_rows(op));
    check(op.tap_begin >= 0 && op.tap_begin <= op.tap_end && op.tap_end <= static_cast<int64_t>(program_.taps.size()),
          "op, taps", "a range of taps", op.tap_begin);
    for (int32_t t = op.tap_begin; t < op.tap_end; ++t) {
      const Tap& tap = program_.taps[t];
      const auto block = blocks_.find(tap.weights);
      check(block != blocks_.end(), "tap, weights", "the first number of a block", tap.weights);
      check(block->second.inputs == tap.inputs && block->second.outputs == op.outputs, "tap, inputs",
            "those of its weight block", tap.inputs);
      within("tap, source", tap.source, tap.inputs, program_.rows);
      check(tap.pairs == 0 || (tap.pairs == 1 && tap.inputs % 2 == 0), "tap, pairs",
            "0, or 1 for an even number of inputs", tap.pairs);
    }
  }

  const Model& model_;
  const Program& program_;
  const std::string prefix_;
  const std::unordered_map<int32_t, Block>& blocks_;
};

}  // namespace

void check_that(bool good, const std::string& what, const std::string& expected, int64_t got) {
  if (!good) throw std::invalid_argument(what + ": expected " + expected + ", got " + std::to_string(got));
}

void check_programs(const Model& model, const std::vector<Block>& blocks) {
  std::unordered_map<int32_t, Block> by_first;
  const auto given = static_cast<int64_t>(model.weights.size());
  for (const Block& block : blocks) {
    const bool good = block.first >= 0 && block.inputs >= 1 && block.outputs >= 1 &&
                      block.first + int64_t{block.inputs} * block.outputs <= given;
    check_that(good, "blocks", "ranges of weights", block.first);
    by_first[block.first] = block;
  }
  for (size_t i = 0; i < model.programs.size(); ++i) {
    Checker(model, model.programs[i], static_cast<int>(i), by_first).run();
  }
}

}  // namespace spx
