// What Python hands over of a raster schedule: every number is checked here, so that no place of an arena that a kernel
// reads or writes lies outside it.
#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>

#include "raster.h"

namespace spx {
namespace {

// first ... first + count must lie in begin ... end.
void within(const std::string& what, int64_t first, int64_t count, int64_t end, int64_t begin = 0) {
  if (first < begin || count < 0 || first + count > end) {
    check_that(false, what, std::to_string(begin) + " to " + std::to_string(end - count), first);
  }
}

class Checker {
 public:
  explicit Checker(const Raster& raster, const std::unordered_map<int32_t, Block>& blocks)
      : r_(raster), blocks_(blocks) {}

  void run() {
    for (const Ring& ring : r_.rings) check_ring(ring);
    check_ring_number("pixels", r_.pixels);
    check_ring_number("params", r_.params);
    for (const int32_t ring : r_.planes) check_ring_number("planes", ring);
    within("stages", size(r_.stages), 0, 1 << 16);
    for (const RasterStage& stage : r_.stages) check_stage(stage);
    for (const int32_t bias : r_.biases) within("biases", bias, 1, size(r_.model.bias));
    within("rows", static_cast<int64_t>(r_.rows.size()), 0, r_.height, r_.height);
    for (const int32_t kind : r_.rows) within("rows", kind, 1, size(r_.kinds));
    check_that(size(r_.step_begins) == size(r_.kinds) * (r_.width + 2), "step_begins", "W + 2 for each kind",
               size(r_.step_begins));
    find_bases();
    check_full_width("pixels", r_.pixels, FORM_RAW);
    check_full_width("params", r_.params, FORM_RAW);
    check_that(r_.rings[r_.params].channels == r_.model.parameters, "params", "a ring of the parameters",
               r_.rings[r_.params].channels);
    for (size_t kind = 0; kind < r_.kinds.size(); ++kind) check_kind(static_cast<int>(kind));
  }

 private:
  template <typename T>
  static int64_t size(const std::vector<T>& v) {
    return static_cast<int64_t>(v.size());
  }

  void check_ring_number(const char* what, int32_t ring) const { within(what, ring, 1, size(r_.rings)); }

  static void check_ring(const Ring& ring) {
    within("ring, channels", ring.channels, 0, 1 << 20, 1);
    check_that(ring.form >= FORM_PAIRS && ring.form <= FORM_GATED, "ring, form", "0 to 3", ring.form);
    for (const int32_t n : {ring.width, ring.depth, ring.rise}) within("ring, width, depth, rise", n, 0, 1 << 20, 1);
    for (const int32_t n : {ring.left, ring.right}) within("ring, left and right", n, 0, 1 << 20);
  }

  void check_full_width(const char* what, int32_t ring, int32_t form) const {
    const Ring& r = r_.rings[ring];
    check_that(r.width == r_.width && r.form == form && r.rise == r_.period, what, "a ring of whole rows of the image",
               r.width);
  }

  void check_stage(const RasterStage& stage) const {
    check_that(stage.gate >= GATE_NONE && stage.gate <= GATE_TANH, "stage, gate", "0 to 2", stage.gate);
    within("stage, outputs", stage.outputs, 0, 1 << 16, 1);
    const bool gated = stage.gate != GATE_NONE, tanh = stage.gate == GATE_TANH;
    check_that(!gated || stage.outputs % 2 == 0, "stage, outputs", "an even number before a gate", stage.outputs);
    if (stage.code != -1) within("stage, code", stage.code, stage.outputs, r_.model.code_outputs);
    const int channels = gated ? stage.outputs / 2 : stage.outputs;
    for (const int32_t ring : {stage.raw, stage.activated, stage.residual}) {
      if (ring == -1) continue;
      check_ring_number("stage, rings", ring);
      const int held = tanh && ring == stage.raw ? stage.outputs : channels;
      check_that(r_.rings[ring].channels == held, "stage, rings", "those of its channels", ring);
      const int32_t form = r_.rings[ring].form;
      const bool good = ring == stage.activated  ? form != FORM_RAW && (form == FORM_GATED) == tanh
                        : ring == stage.residual ? !tanh && (form == FORM_RAW || form == FORM_PAIRS)
                                                 : form == FORM_RAW;
      check_that(good, "stage, rings", "of the right form", ring);
    }
  }

  // The least of R // S of the rows of each kind: rows of places count from it.
  void find_bases() {
    base_.assign(r_.kinds.size(), r_.height);
    for (int row = 0; row < r_.height; ++row) {
      int& base = base_[r_.rows[row]];
      base = std::min(base, row / r_.period);
    }
  }

  // A row of places of a kind is row 0 or a later one.
  void check_row(const char* what, int32_t ring, int32_t row, int base) const {
    check_ring_number(what, ring);
    within(what, int64_t{row} + int64_t{base} * r_.rings[ring].rise, 1, int64_t{1} << 32);
  }

  void check_kind(int number) const {
    const Kind& kind = r_.kinds[number];
    within("kind, ops", kind.op, int64_t{kind.op_end} - kind.op, size(r_.ops));
    within("kind, loads", kind.load, int64_t{kind.load_end} - kind.load, size(r_.loads));
    const int base = base_[number];
    for (int i = kind.load; i < kind.load_end; ++i) {
      const RingRow& load = r_.loads[i];
      check_row("load", load.ring, load.row, base);
      check_that(std::count(r_.planes.begin(), r_.planes.end(), load.ring) > 0, "load", "the ring of an input",
                 load.ring);
      check_that(r_.rings[load.ring].form == FORM_RAW, "load", "a ring of numbers as they are", load.ring);
    }
    for (int op = kind.op; op < kind.op_end; ++op) check_op(r_.ops[op], base);
    const int32_t* begins = r_.step_begins.data() + static_cast<int64_t>(number) * (r_.width + 2);
    within("step_begins", begins[0], 0, size(r_.steps));
    for (int c = 0; c <= r_.width; ++c) {
      within("step_begins", begins[c + 1], 0, size(r_.steps), begins[c]);
      for (int i = begins[c]; i < begins[c + 1]; ++i) {
        const RasterStep& step = r_.steps[i];
        within("step, op", step.op, 1, kind.op_end, kind.op);
        within("step, place", step.place, 1, r_.ops[step.op].count);
        check_that(r_.ops[step.op].waits == 1, "step, op", "one that waits", step.op);
      }
    }
  }

  void check_op(const RasterOp& op, int base) const {
    within("op, stage", op.stage, 1, size(r_.stages));
    const RasterStage& stage = r_.stages[op.stage];
    check_that(op.waits == 0 || op.waits == 1, "op, waits", "0 or 1", op.waits);
    within("op, count", op.count, 0, 1 << 20, 1);
    within("op, step", op.step, 0, 1 << 10, 1);
    within("op, bias", op.bias, op.count, size(r_.biases));
    for (int i = 0; i < op.count; ++i) {
      within("biases", r_.biases[op.bias + i], stage.outputs, size(r_.model.bias));
    }
    for (const int32_t ring : {stage.raw, stage.activated, stage.residual}) {
      if (ring == -1) continue;
      check_row("op, row", ring, op.row, base);
      within("op, first", op.first, int64_t{op.step} * (op.count - 1) + 1, r_.rings[ring].width);
    }
    const bool good =
        op.tap_begin >= 0 && op.tap_begin <= op.tap_late && op.tap_late <= op.tap_end && op.tap_end <= size(r_.taps);
    check_that(good, "op, taps", "ranges of taps", op.tap_begin);
    check_that(op.waits == 1 || op.tap_late == op.tap_end, "op, taps", "none that waits", op.tap_late);
    for (int t = op.tap_begin; t < op.tap_end; ++t) check_tap(r_.taps[t], op, stage, base);
  }

  void check_tap(const RasterTap& tap, const RasterOp& op, const RasterStage& stage, int base) const {
    check_row("tap, row", tap.ring, tap.row, base);
    const Ring& ring = r_.rings[tap.ring];
    within("tap, step", tap.step, 0, 1 << 10);
    within("tap, column", tap.column, int64_t{tap.step} * (op.count - 1) + 1, int64_t{ring.width} + ring.right,
           -int64_t{ring.left});
    within("tap, inside", tap.inside, int64_t{tap.inside_end} - tap.inside, op.count);
    const auto block = blocks_.find(tap.weights);
    check_that(block != blocks_.end(), "tap, weights", "the first number of a block", tap.weights);
    check_that(block->second.inputs == r_.numbers[tap.ring] && block->second.outputs == stage.outputs, "tap, weights",
               "a block of its ring's inputs", tap.weights);
  }

  const Raster& r_;
  const std::unordered_map<int32_t, Block>& blocks_;
  std::vector<int> base_;
};

std::unordered_map<int32_t, Block> blocks_by_first(const std::vector<Block>& blocks) {
  std::unordered_map<int32_t, Block> result;
  for (const Block& block : blocks) result[block.first] = block;
  return result;
}

// Of a tile or a part of one: shorter than a call of memcpy is worth.
inline void copy_numbers(const float* from, int count, float* to) {
  while (count >= 8) {
    std::memcpy(to, from, 8 * sizeof(float));
    from += 8, to += 8, count -= 8;
  }
  for (int i = 0; i < count; ++i) to[i] = from[i];
}

}  // namespace

void Raster::finish(const std::vector<Block>& blocks) {
  numbers.clear();
  for (const Ring& ring : rings) {
    within("ring, channels", ring.channels, 0, 1 << 20, 1);
    numbers.push_back(ring.channels * (ring.form == FORM_PAIRS ? 2 : 1));
  }
  model.finish(blocks);
  const auto by_first = blocks_by_first(blocks);
  Checker(*this, by_first).run();

  for (const RasterStage& stage : stages) model.outputs = std::max(model.outputs, static_cast<int>(stage.outputs));
  std::vector<int32_t> sums;
  for (const RasterStage& stage : stages) sums.push_back(stage.outputs);
  lay_out(wide, numbers, sums);
  choose_tile();
  place_tiles();
  place_in_order();
  find_step_work();
  fill();
  std::vector<int32_t> places;
  for (size_t ring = 0; ring < rings.size(); ++ring) {
    const int padded = (rings[ring].channels + tile - 1) / tile * tile;
    places.push_back(padded * (rings[ring].form == FORM_PAIRS ? 2 : 1));
  }
  for (size_t stage = 0; stage < stages.size(); ++stage) sums[stage] = stage_tiles[stage] * tile;
  lay_out(narrow, places, sums);
  plane_rows.assign(planes.size(), 0);
  for (int row = 0; row < height; ++row) {
    const Kind& kind = kinds[rows[row]];
    for (int i = kind.load; i < kind.load_end; ++i) {
      const auto of = std::find(planes.begin(), planes.end(), loads[i].ring) - planes.begin();
      const int64_t y = loads[i].row + int64_t{row / period} * rings[loads[i].ring].rise;
      within("load", y, 1, 1 << 20);
      plane_rows[of] = std::max(plane_rows[of], static_cast<int32_t>(y + 1));
    }
  }
}

// sums: numbers of a partial sum of each stage.
void Raster::lay_out(Layout& layout, const std::vector<int32_t>& place, const std::vector<int32_t>& sums) const {
  constexpr int64_t MOST = int64_t{1} << 31;
  layout.place = place;
  layout.first.clear();
  layout.size = 0;
  for (size_t ring = 0; ring < rings.size(); ++ring) {
    layout.first.push_back(layout.size);
    layout.size += int64_t{rings[ring].depth} * ring_width(static_cast<int>(ring)) * place[ring];
    within("rings", layout.size, 0, MOST);
  }
  // The partial sums of a row of the image lie in the order in which steps take them up.
  layout.partials.assign(biases.size(), layout.size);
  int64_t most = sums.empty() ? 0 : *std::max_element(sums.begin(), sums.end());
  for (size_t kind = 0; kind < kinds.size(); ++kind) {
    const int32_t* begins = step_begins.data() + static_cast<int64_t>(kind) * (width + 2);
    int64_t used = 0;
    for (int i = begins[0]; i < begins[width + 1]; ++i) {
      const RasterOp& op = ops[steps[i].op];
      within("rings and partial sums", layout.size + used, sums[op.stage], MOST);
      layout.partials[op.bias + steps[i].place] = layout.size + used;
      used += sums[op.stage];
    }
    most = std::max(most, used);
  }
  layout.size += most;
  within("rings and partial sums", layout.size, 0, MOST);
}

void Raster::find_step_work() {
  for (const RasterStep& step : steps) step_work += int64_t{op_late[step.op]} * stages[ops[step.op].stage].outputs;
  step_work /= std::max<int64_t>(1, static_cast<int64_t>(steps.size()));
}

// The tile that wastes least; of equals the largest.
void Raster::choose_tile() {
  int64_t least = INT64_MAX;
  for (const int32_t candidate : CHANNEL_TILES) {
    int64_t padded = 0;
    std::vector<int32_t> found;
    for (const RasterStage& stage : stages) {
      const int halves = halves_of(stage.gate);
      found.push_back((stage.outputs / halves + candidate - 1) / candidate * halves);
      padded += int64_t{found.back()} * candidate;
    }
    if (padded <= least) least = padded, tile = candidate, stage_tiles = found;
  }
}

// Where each block and each bias stands in tiles.
void Raster::place_tiles() {
  const auto by_first = blocks_by_first(model.blocks);
  std::unordered_map<int64_t, int64_t> tiled;  // first number of a block, and halves -> where it begins here
  std::unordered_map<int64_t, int64_t> tiled_bias;
  int64_t size = 0, bias_size = 0;
  tap_tiles.assign(taps.size(), 0);
  place_bias.assign(biases.size(), 0);
  for (const RasterOp& op : ops) {
    const int halves = halves_of(stages[op.stage].gate), sum = stage_tiles[op.stage] * tile;
    for (int t = op.tap_begin; t < op.tap_end; ++t) {
      const Block& block = by_first.at(taps[t].weights);
      const auto [known, is_new] = tiled.try_emplace(int64_t{block.first} * 2 + halves - 1, size);
      tap_tiles[t] = known->second;
      if (!is_new) continue;
      tiled_blocks.push_back({block, op.stage, size});
      size += int64_t{block.inputs} * sum;
    }
    for (int place = 0; place < op.count; ++place) {
      const int32_t bias = biases[op.bias + place];
      const auto [known, is_new] = tiled_bias.try_emplace(int64_t{bias} << 16 | op.stage, bias_size);
      place_bias[op.bias + place] = known->second;
      if (!is_new) continue;
      tiled_biases.push_back({bias, op.stage, bias_size});
      bias_size += sum;
    }
  }
  tiles.assign(size + SLACK, 0.0f);
  tile_bias.assign(bias_size, 0.0f);
}

// Where the weights of the taps that wait stand, op after op. Most kinds of rows share them.
void Raster::place_in_order() {
  const auto by_first = blocks_by_first(model.blocks);
  std::map<std::vector<int64_t>, size_t> known;  // the blocks of an op's taps -> the op that has them first
  int most = 1;
  for (size_t stage = 0; stage < stages.size(); ++stage) most = std::max(most, slices(static_cast<int>(stage)));
  std::vector<int64_t> sizes(most, 0);
  op_in_order.assign(ops.size() * most, 0);
  op_late.assign(ops.size(), 0);
  for (size_t number = 0; number < ops.size(); ++number) {
    const RasterOp& op = ops[number];
    if (!op.waits) continue;
    std::vector<int64_t> key(1, op.stage);
    for (int t = op.tap_late; t < op.tap_end; ++t) {
      key.push_back(tap_tiles[t]);
      op_late[number] += numbers[taps[t].ring];
    }
    const auto [found, is_new] = known.try_emplace(key, number);
    for (int s = 0; s < slices(op.stage); ++s) {
      op_in_order[number * most + s] = is_new ? sizes[s] : op_in_order[found->second * most + s];
      const int halves = stages[op.stage].outputs / channels(op.stage);
      const int64_t row = int64_t{slice_begin(op.stage, s + 1) - slice_begin(op.stage, s)} * halves;
      for (int t = op.tap_late; is_new && t < op.tap_end; ++t) {
        const Block& block = by_first.at(taps[t].weights);
        blocks_in_order.push_back({block, op.stage, s, sizes[s]});
        sizes[s] += block.inputs * row;
      }
    }
  }
  for (const int64_t size : sizes) in_order.emplace_back(size + SLACK, 0.0f);
}

// Weights [inputs][outputs] of every block become [tiles][inputs][tile], and in order [inputs][halves][slice]; biases
// [tiles][tile]. Each half of a sum before a gate begins with a tile of its own.
void Raster::fill() {
  // Numbers of a stage's sum, for each of some inputs.
  const auto copy_tiles = [this](const RasterStage& stage, int32_t sums, const float* from, float* to, int inputs) {
    const int halves = halves_of(stage.gate), channels = stage.outputs / halves;
    for (int k = 0; k < sums; ++k, to += int64_t{inputs} * tile) {
      const int half = k / (sums / halves), first = k % (sums / halves) * tile,
                count = std::min(tile, channels - first);
      const float* part = from + half * channels + first;
      for (int64_t i = 0; i < inputs; ++i) copy_numbers(part + i * stage.outputs, count, to + i * tile);
    }
  };
  for (const TiledBlock& t : tiled_blocks) {
    copy_tiles(stages[t.stage], stage_tiles[t.stage], model.weights.data() + t.block.first, tiles.data() + t.to,
               t.block.inputs);
  }
  for (const TiledBias& t : tiled_biases) {
    copy_tiles(stages[t.stage], stage_tiles[t.stage], model.bias.data() + t.bias, tile_bias.data() + t.to, 1);
  }
  for (const BlockInOrder& b : blocks_in_order) {
    const int begin = slice_begin(b.stage, b.slice), end = slice_begin(b.stage, b.slice + 1);
    const int count = std::min(end, channels(b.stage)) - begin;
    float* to = in_order[b.slice].data() + b.to;
    const float* from = model.weights.data() + b.block.first + begin;
    for (int64_t i = 0; i < b.block.inputs; ++i, from += b.block.outputs) {
      for (int half = 0; half < b.block.outputs; half += channels(b.stage), to += end - begin) {
        copy_numbers(from + half, count, to);
      }
    }
  }
}

}  // namespace spx
