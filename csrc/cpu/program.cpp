#include "program.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "../cpu_features.h"

namespace spx {
namespace {

// Checks one program's indices. Every access of a kernel is within what is checked here.
class Checker {
 public:
  Checker(const Model& model, const Program& program, int number,
          const std::unordered_map<int32_t, WeightBlock>& blocks)
      : model_(model), program_(program), number_(number), blocks_(blocks) {}

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
    for (size_t i = 0; i < program_.pixels.size(); i += 2) {
      within("pixels, place", program_.pixels[i], 1, model_.inputs[0].places);
      within("pixels, row", program_.pixels[i + 1], model_.inputs[0].channels, program_.rows);
    }
    for (size_t i = 0; i < program_.conditioning.size(); i += 3) {
      const int32_t k = program_.conditioning[i];
      within("conditioning, resolution", k, 1, static_cast<int64_t>(model_.inputs.size()) - 1);
      const Input& input = model_.inputs[1 + k];
      within("conditioning, place", program_.conditioning[i + 1], 1, input.places);
      within("conditioning, row", program_.conditioning[i + 2], input.channels, program_.rows);
    }
    for (const Op& op : program_.ops) check_op(op);
  }

 private:
  void check(bool good, const char* what, const std::string& expected, int64_t got) const {
    if (good) return;
    throw std::invalid_argument("program " + std::to_string(number_) + ": " + what + ": expected " + expected +
                                ", got " + std::to_string(got));
  }

  // first .. first + count must lie in 0 .. end.
  void within(const char* what, int64_t first, int64_t count, int64_t end) const {
    check(first >= 0 && first + count <= end, what, "0 to " + std::to_string(end - count), first);
  }

  void check_op(const Op& op) const {
    check(op.outputs >= 1 && op.outputs <= 1 << 16, "op, outputs", "1 to 65536", op.outputs);
    check(!is_gated(op) || op.outputs % 2 == 0, "op, outputs", "an even number before a gate", op.outputs);
    const int channels = channels_of(op);
    within("op, bias", op.bias, op.outputs, static_cast<int64_t>(model_.bias.size()));
    if (op.latent >= 0) within("op, latent", op.latent, op.outputs, model_.latent_outputs);
    const auto row = [&](const char* what, int32_t first, int64_t count) {
      if (first >= 0) within(what, first, count, program_.rows);
    };
    row("op, partial_in", op.partial_in, op.outputs);
    row("op, partial_out", op.partial_out, op.outputs);
    row("op, residual", op.residual, channels);
    row("op, residual_ahead", op.residual_ahead, channels);
    row("op, raw", op.raw, channels);
    row("op, act", op.act, 2 * channels);
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
  int number_;
  const std::unordered_map<int32_t, WeightBlock>& blocks_;
};

bool same_weights(const Program& program, const Op& a, const Op& b) {
  if (a.outputs != b.outputs || a.tap_end - a.tap_begin != b.tap_end - b.tap_begin) return false;
  for (int32_t t = 0; t < a.tap_end - a.tap_begin; ++t) {
    if (program.taps[a.tap_begin + t].weights != program.taps[b.tap_begin + t].weights) return false;
  }
  return true;
}

// Whether an op reads rows that another one writes, so that they cannot run side by side.
bool reads(const Program& program, const Op& op, const Op& writer) {
  const int channels = channels_of(writer);
  const auto overlaps = [](int32_t first, int32_t count, int32_t other, int32_t other_count) {
    return first >= 0 && other >= 0 && first < other + other_count && other < first + count;
  };
  for (int32_t t = op.tap_begin; t < op.tap_end; ++t) {
    const Tap& tap = program.taps[t];
    if (overlaps(tap.source, tap.inputs, writer.raw, channels) ||
        overlaps(tap.source, tap.inputs, writer.act, 2 * channels) ||
        overlaps(tap.source, tap.inputs, writer.partial_out, writer.outputs)) {
      return true;
    }
  }
  return false;
}

// Whether op `end` reads nothing of the ops from `first` on that a kernel might run together with it.
bool independent(const Program& program, int32_t first, int32_t end) {
  for (int32_t op = std::max(first, end - PLACES + 1); op < end; ++op) {
    if (reads(program, program.ops[end], program.ops[op])) return false;
  }
  return true;
}

void count_alike(Program& program) {
  program.alike.assign(program.ops.size(), 1);
  for (size_t part = 0; part + 1 < program.begins.size(); ++part) {
    for (int32_t first = program.begins[part]; first < program.begins[part + 1];) {
      int32_t end = first + 1;
      while (end < program.begins[part + 1] && same_weights(program, program.ops[first], program.ops[end]) &&
             independent(program, first, end)) {
        ++end;
      }
      for (int32_t op = first; op < end; ++op) program.alike[op] = end - op;
      first = end;
    }
  }
}

}  // namespace

void Model::finish(const std::vector<WeightBlock>& blocks) {
  std::unordered_map<int32_t, WeightBlock> by_first;
  const auto given = static_cast<int64_t>(weights.size());
  for (const WeightBlock& block : blocks) {
    const bool good = block.first >= 0 && block.inputs >= 1 && block.outputs >= 1 &&
                      block.first + static_cast<int64_t>(block.inputs) * block.outputs <= given;
    if (!good)
      throw std::invalid_argument("blocks: expected ranges of weights, got one beginning at " +
                                  std::to_string(block.first));
    by_first[block.first] = block;
  }
  for (size_t i = 0; i < programs.size(); ++i) {
    Checker(*this, programs[i], static_cast<int>(i), by_first).run();
    rows = std::max(rows, programs[i].rows);
    for (const Op& op : programs[i].ops) outputs = std::max(outputs, static_cast<int>(op.outputs));
  }
  packed.assign(weights.size() + SLACK, 0.0f);
  for (const auto& [first, block] : by_first) {
    kernels->pack(weights.data() + first, block.inputs, block.outputs, packed.data() + first);
  }
  weights.resize(weights.size() + SLACK, 0.0f);
  for (Program& program : programs) count_alike(program);
  if (tile_kernels) pack_tiles();
}

void Model::pack_tiles() {
  std::unordered_map<int32_t, int32_t> first_of;  // weights of a block -> its first tile
  for (Program& program : programs) {
    program.first_tile.assign(program.taps.size(), 0);
    for (const Op& op : program.ops) {
      bool raw = false;
      for (int32_t t = op.tap_begin; t < op.tap_end; ++t) {
        const Tap& tap = program.taps[t];
        if (!tap.pairs) {
          raw = true;
          continue;
        }
        if (raw) throw std::invalid_argument("taps: expected those of pairs first, got one after others");
        if (pairs == 0) pairs = tap.inputs / 2;
        if (tap.inputs != 2 * pairs) {
          throw std::invalid_argument("taps: expected " + std::to_string(2 * pairs) +
                                      " inputs of every tap of pairs, got " + std::to_string(tap.inputs));
        }
        const auto [known, is_new] = first_of.try_emplace(tap.weights, static_cast<int32_t>(tiles.size() / 1024));
        if (is_new) {
          tiles.resize(tiles.size() + static_cast<size_t>(1024) * tile_kernels->tile_count(tap.inputs, op.outputs));
          tile_kernels->pack(weights.data() + tap.weights, tap.inputs, op.outputs,
                             tiles.data() + static_cast<size_t>(1024) * known->second);
        }
        program.first_tile[t] = known->second;
      }
    }
  }
}

const TileKernels* available_tile_kernels() {
  const CpuFeatures& f = cpu_features();
  if (!(f.avx512bf16 && f.avx512f && f.avx512vl && f.avx512bw && f.avx512dq)) return nullptr;
  static const bool lent = f.amx_tile && f.amx_bf16 && kernels_amx() && kernels_amx()->ask();
  if (lent) return kernels_amx();
  // Measured: on Zen 5 the dot product has 1.9 times the rate of fp32, on a Xeon of 2023 half of it.
  return f.amd ? kernels_bf16() : nullptr;
}

std::vector<const Kernels*> available_kernels() {
  const CpuFeatures& f = cpu_features();
  std::vector<const Kernels*> found;
  const bool avx2 = f.avx2 && f.fma;
  if (avx2 && f.avx512f && f.avx512dq && f.avx512bw && f.avx512vl && kernels_avx512())
    found.push_back(kernels_avx512());
  if (avx2 && kernels_avx2()) found.push_back(kernels_avx2());
  found.push_back(kernels_portable());
  return found;
}

}  // namespace spx
