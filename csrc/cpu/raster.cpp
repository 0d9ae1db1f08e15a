// Drawing whole images in raster order, every place once: which images run side by side, and on which thread.
#include "raster.h"

#include <algorithm>

#include "engine.h"
#include "machine.h"
#include "threads.h"

namespace spx {
namespace {

// Images that one thread draws together.
struct Group {
  int first, count;
};

// From this many images on a group runs with a lane for each. (Measured; the bits are the same.)
constexpr int WIDE_FROM = 9;

std::vector<Group> groups_of(const Job& job) {
  std::vector<Group> groups;
  for (int first = 0; first < job.count;) {
    const int count = std::min(LANES, job.count - first);
    const int together = count >= WIDE_FROM ? count : 1;
    groups.push_back({first, together});
    first += together;
  }
  return groups;
}

// The threads' common state. Groups are taken in order.
struct Shared {
  const Raster& raster;
  const Job& job;
  const std::vector<Planes>& planes;
  const std::vector<Group> groups;
  std::vector<std::atomic<int32_t>> rows;  // [groups], rows drawn of each
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> pixels{0};
  std::atomic<bool> stop{false};

  Shared(const Raster& raster, const Job& job, const std::vector<Planes>& planes)
      : raster(raster), job(job), planes(planes), groups(groups_of(job)), rows(groups.size()) {}

  void write_finished() const {
    for (size_t g = 0; g < groups.size(); ++g) {
      std::fill_n(job.finished + groups[g].first, groups[g].count, rows[g].load(std::memory_order_acquire));
    }
  }
};

// One thread's rings, and its way to draw a group in them: wide, with a lane for each of LANES images, or narrow, one
// image with its channels side by side.
class Worker {
 public:
  explicit Worker(Shared& shared)
      : shared_(shared),
        raster_(shared.raster),
        model_(raster_.model),
        job_(shared.job),
        lanes_(shared.groups[0].count > 1 ? LANES : 1),
        fill_(model_.poison ? std::nanf("") : 0.0f),
        arena_(static_cast<size_t>(raster_.arena_rows) * lanes_ + SLACK, fill_),
        code_(static_cast<size_t>(model_.code_outputs) * LANES, fill_),
        scratch_(scratch_size(model_.outputs), fill_),
        uz_(model_.code_outputs) {
    // Levels beyond the head's, which only a faulty canvas has, read the last one's.
    for (int level = 0; level < 256; ++level) {
      const float* seen = job_.table + std::min(level, job_.head.levels - 1) * job_.embedding;
      table_.insert(table_.end(), seen, seen + job_.embedding);
    }
  }

  static size_t bytes(const Raster& raster, int lanes) {
    return product_of({sizeof(float), static_cast<size_t>(raster.arena_rows) + SLACK, static_cast<size_t>(lanes)});
  }

  void run() {
    while (!shared_.stop.load(std::memory_order_relaxed)) {
      const int64_t group = shared_.next.fetch_add(1, std::memory_order_relaxed);
      if (group >= static_cast<int64_t>(shared_.groups.size())) return;
      draw_group(static_cast<int>(group));
    }
  }

 private:
  void draw_group(int group) {
    images_ = shared_.groups[group];
    lanes_ = images_.count > 1 ? LANES : 1;
    if (model_.poison) std::fill_n(arena_.data(), raster_.arena_rows * lanes_, fill_);
    clear_borders();
    for (int image = 0; model_.code > 0 && image < images_.count; ++image) set_code(image);
    for (int row = 0; row < raster_.height; ++row) {
      begin_row(row);
      ahead();
      for (int column = 0; column <= raster_.width; ++column) {
        step(column);
        if (column < raster_.width) draw_pixels(column);
      }
      shared_.pixels.fetch_add(int64_t{raster_.width} * images_.count, std::memory_order_relaxed);
      shared_.rows[group].store(row + 1, std::memory_order_release);
      if (shared_.stop.load(std::memory_order_relaxed)) return;
    }
  }

  float* at(int64_t row) { return arena_.data() + row * lanes_; }

  // Zeros on the left and on the right of every ring.
  void clear_borders() {
    for (size_t ring = 0; ring < raster_.rings.size(); ++ring) {
      const Ring& r = raster_.rings[ring];
      const int64_t numbers = raster_.numbers[ring], width = raster_.ring_width(static_cast<int>(ring));
      for (int row = 0; row < r.depth; ++row) {
        const int64_t begin = raster_.first[ring] + row * width * numbers;
        std::fill_n(at(begin), r.left * numbers * lanes_, 0.0f);
        std::fill_n(at(begin + (r.left + r.width) * numbers), r.right * numbers * lanes_, 0.0f);
      }
    }
  }

  void set_code(int image) {
    std::fill(uz_.begin(), uz_.end(), 0.0f);
    const float* z = job_.code + static_cast<int64_t>(images_.first + image) * model_.code;
    const size_t outputs = uz_.size();
    for (int i = 0; i < model_.code; ++i) {
      const float* u = model_.code_weights.data() + i * outputs;
      for (size_t o = 0; o < outputs; ++o) uz_[o] += u[o] * z[i];
    }
    for (size_t o = 0; o < outputs; ++o) code_.data()[o * LANES + image] = uz_[o];
  }

  void begin_row(int row) {
    row_ = row;
    base_ = row / raster_.period;
    number_ = raster_.rows[row];
    kind_ = &raster_.kinds[number_];
    for (int i = kind_->load; i < kind_->load_end; ++i) load(raster_.loads[i]);
  }

  // A row of an input besides the pixels.
  void load(const RingRow& load) {
    const Ring& ring = raster_.rings[load.ring];
    const auto of = std::find(raster_.planes.begin(), raster_.planes.end(), load.ring) - raster_.planes.begin();
    const Planes& planes = shared_.planes[of];
    const int64_t count = int64_t{ring.width} * ring.channels;
    for (int image = 0; image < images_.count; ++image) {
      const int64_t n = planes.images > 1 ? images_.first + image : 0;
      const float* from = planes.array + (n * planes.height + load.row + base_ * ring.rise) * count;
      float* to = at(raster_.place(load.ring, base_, load.row, 0)) + image;
      for (int64_t i = 0; i < count; ++i) to[i * lanes_] = from[i];
    }
  }

  // Everything of this row that waits for none of its pixels.
  void ahead() {
    for (int number = kind_->op; number < kind_->op_end; ++number) {
      const RasterOp& op = raster_.ops[number];
      const int end = op.waits ? op.tap_late : op.tap_end;
      if (op.waits && op.tap_begin == end) continue;
      begin_ops();
      for (int place = 0; place < op.count; ++place) add_op(op, place, op.tap_begin, end, op.waits, false);
      run_ops();
    }
  }

  // What waits for the first `column` pixels of the row, and for no more.
  void step(int column) {
    const int32_t* begins = raster_.step_begins.data() + static_cast<int64_t>(number_) * (raster_.width + 2) + column;
    if (begins[0] == begins[1]) return;
    begin_ops();
    for (int i = begins[0]; i < begins[1]; ++i) {
      const RasterOp& op = raster_.ops[raster_.steps[i].op];
      add_op(op, raster_.steps[i].place, op.tap_late, op.tap_end, false, op.tap_begin < op.tap_late);
    }
    run_ops();
  }

  void begin_ops() { ops_.clear(), taps_.clear(), alike_.clear(); }

  // One place of an op, as kernels take it: its taps [begin, end). leaves, continues: its partial sums.
  void add_op(const RasterOp& op, int place, int begin, int end, bool leaves, bool continues) {
    const RasterStage& stage = raster_.stages[op.stage];
    Op one;
    one.bias = raster_.biases[op.bias + place];
    one.code = stage.code;
    const int32_t partial = raster_.partials[op.bias + place];
    one.partial_in = continues ? partial : -1;
    one.partial_out = leaves ? partial : -1;
    const int column = op.first + place * op.step;
    const auto in = [&](int ring) {
      return ring < 0 ? -1 : static_cast<int32_t>(raster_.place(ring, base_, op.row, column));
    };
    one.residual = in(stage.residual);
    one.residual_ahead = -1;
    one.raw = in(stage.raw);
    one.activated = in(stage.activated);
    one.outputs = stage.outputs;
    one.gate = stage.gate;
    one.form = stage.activated < 0 ? FORM_PAIRS : raster_.rings[stage.activated].form;
    one.tap_begin = static_cast<int32_t>(taps_.size());
    for (int t = begin; t < end; ++t) {
      const RasterTap& tap = raster_.taps[t];
      if (place < tap.inside || place >= tap.inside_end) continue;
      const int64_t source = raster_.place(tap.ring, base_, tap.row, tap.column + place * tap.step);
      taps_.push_back({static_cast<int32_t>(source), tap.weights, raster_.numbers[tap.ring], 0});
    }
    one.tap_end = static_cast<int32_t>(taps_.size());
    ops_.push_back(one);
  }

  void run_ops() {
    // Ops with the same taps are places of one stage, so none reads what another one writes.
    alike_.assign(ops_.size(), 1);
    for (size_t i = ops_.size(); i-- > 1;) {
      if (same_weights(ops_[i - 1], ops_[i])) alike_[i - 1] = alike_[i] + 1;
    }
    Run run{};
    run.begin = ops_.data();
    run.end = ops_.data() + ops_.size();
    run.alike = alike_.data();
    run.taps = taps_.data();
    run.packed = model_.packed.data();
    run.weights = model_.weights.data();
    run.bias = model_.bias.data();
    run.code = code_.data();
    run.arena = arena_.data();
    run.ahead = arena_.data();
    run.ahead_stride = 1;
    run.scratch = scratch_.data();
    run.next = reinterpret_cast<const char*>(model_.packed.data());
    if (lanes_ > 1) {
      model_.kernels->wide(run);
    } else {
      model_.kernels->narrow(run);
    }
  }

  bool same_weights(const Op& a, const Op& b) const {
    if (a.tap_begin == a.tap_end || a.tap_end - a.tap_begin != b.tap_end - b.tap_begin) return false;
    for (int t = 0; t < a.tap_end - a.tap_begin; ++t) {
      if (taps_[a.tap_begin + t].weights != taps_[b.tap_begin + t].weights) return false;
    }
    return true;
  }

  int64_t pixel(int image, int column) const {
    return (static_cast<int64_t>(images_.first + image) * job_.height + row_) * job_.width + column;
  }

  void draw_pixels(int column) {
    const int row = row_ - static_cast<int>(base_) * raster_.period;
    const float* params = at(raster_.place(raster_.params, base_, row, column));
    float* seen = at(raster_.place(raster_.pixels, base_, row, column));
    for (int image = 0; image < images_.count; ++image) {
      const int64_t number = pixel(image, column);
      draw_pixel(image, column, number, params + image);
      float* to = seen + image;
      for (int c = 0; c < job_.head.channels; ++c) {
        const float* from = table_.data() + job_.pixels[number * job_.head.channels + c] * job_.embedding;
        for (int i = 0; i < job_.embedding; ++i, to += lanes_) *to = from[i];
      }
    }
  }

  void draw_pixel(int image, int column, int64_t number, const float* params) {
    if (job_.params) {
      float* kept = job_.params + number * model_.parameters;
      for (int p = 0; p < model_.parameters; ++p) kept[p] = params[p * lanes_];
    }
    if (is_given(job_, images_.first + image, row_, column)) return;
    uint32_t words[4];
    pixel_words(job_.seed, static_cast<uint32_t>(row_), static_cast<uint32_t>(column),
                job_.images[images_.first + image], job_.draw, words);
    spx::draw(job_.head, params, lanes_, words, job_.temperature, job_.mode, job_.pixels + number * job_.head.channels);
  }

  Shared& shared_;
  const Raster& raster_;
  const Model& model_;
  const Job& job_;
  int lanes_;
  const float fill_;
  AlignedFloats arena_, code_, scratch_;
  std::vector<float> uz_;
  std::vector<float> table_;  // [256][e]
  // The row in work.
  Group images_{0, 0};
  int row_ = 0, number_ = 0;
  int64_t base_ = 0;
  const Kind* kind_ = nullptr;
  // Ops that are about to run.
  std::vector<Op> ops_;
  std::vector<Tap> taps_;
  std::vector<int32_t> alike_;
};

}  // namespace

void draw(const Raster& raster, const Job& job, const std::vector<Planes>& planes, int threads,
          const std::function<bool(int64_t)>& report) {
  Shared shared(raster, job, planes);
  const int workers = static_cast<int>(std::min<int64_t>(threads, static_cast<int64_t>(shared.groups.size())));
  require_memory("threads", product_of({static_cast<size_t>(workers), Worker::bytes(raster, LANES)}));
  std::fill_n(job.finished, job.count, 0);
  int64_t reported = 0;
  in_threads(
      workers, shared.stop, [&] { Worker(shared).run(); },
      [&] {
        const int64_t now = shared.pixels.load(std::memory_order_relaxed);
        shared.write_finished();
        if (!shared.stop.load() && !report(now - reported)) shared.stop.store(true);
        reported = now;
      });
}

}  // namespace spx
