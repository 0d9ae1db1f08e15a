#include "program.h"

#include <algorithm>
#include <unordered_map>

namespace spx {
namespace {

bool same_weights(const Program& program, const Op& a, const Op& b) {
  if (a.outputs != b.outputs || a.tap_end - a.tap_begin != b.tap_end - b.tap_begin) return false;
  for (int32_t t = 0; t < a.tap_end - a.tap_begin; ++t) {
    if (program.taps[a.tap_begin + t].weights != program.taps[b.tap_begin + t].weights) return false;
  }
  return true;
}

// Whether an op reads rows that another one writes, so that they cannot run side by side.
bool reads(const Program& program, const Op& op, const Op& writer) {
  const auto overlaps = [](int32_t first, int32_t count, int32_t other, int32_t other_count) {
    return first >= 0 && other >= 0 && first < other + other_count && other < first + count;
  };
  for (int32_t t = op.tap_begin; t < op.tap_end; ++t) {
    const Tap& tap = program.taps[t];
    if (overlaps(tap.source, tap.inputs, writer.raw, raw_rows(writer)) ||
        overlaps(tap.source, tap.inputs, writer.activated, activated_rows(writer)) ||
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

void Model::finish(const std::vector<Block>& found) {
  blocks = found;
  check_programs(*this, blocks);
  for (const Program& program : programs) {
    rows = std::max(rows, program.rows);
    for (const Op& op : program.ops) outputs = std::max(outputs, static_cast<int>(op.outputs));
  }
  weights.resize(weights.size() + SLACK, 0.0f);
  packed.assign(weights.size(), 0.0f);
  for (Program& program : programs) count_alike(program);
  pack();
}

void Model::pack() {
  for (const Block& block : blocks) {
    kernels->pack(weights.data() + block.first, block.inputs, block.outputs, packed.data() + block.first);
  }
  if (tile_kernels) pack_tiles();
}

void Model::pack_tiles() {
  tiles.clear();
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
        check_that(!raw, "bf16, taps", "those of pairs first", t);
        if (pairs == 0) pairs = tap.inputs / 2;
        check_that(tap.inputs == 2 * pairs, "bf16, inputs of taps of pairs", std::to_string(2 * pairs), tap.inputs);
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

}  // namespace spx
