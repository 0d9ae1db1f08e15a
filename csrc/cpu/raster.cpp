// Drawing whole images in raster order, every place once: which images run side by side, and on which thread.
#include "raster.h"

#include <algorithm>
#include <memory>

#include "engine.h"
#include "machine.h"
#include "threads.h"

namespace spx {
namespace {

// Images that one thread draws together.
struct Group {
  int first, count;
};

// What a wide group takes, in images that are drawn alone. (Measured: 8.5 for a small network, 6.9 for a large one. The
// bits are the same either way.)
constexpr int WIDE_COST = 7;

// Groups of a job's images: wide ones unless the threads are sooner done with images alone; so too for what is left
// over.
std::vector<Group> groups_of(int images, int threads) {
  const auto turns = [&](int64_t items) { return (items + threads - 1) / threads; };
  const bool alone = turns(images) < turns((images + LANES - 1) / LANES) * WIDE_COST;
  std::vector<Group> groups;
  for (int first = 0; first < images;) {
    const int left = std::min(LANES, images - first);
    const int count = alone || left <= WIDE_COST ? 1 : left;
    groups.push_back({first, count});
    first += count;
  }
  return groups;
}

// Threads that draw a group together: what they have in common.
struct Team {
  Barrier barrier;
  // What the first one says: whether it draws the next row alone, and the rest of the row, at every other meeting.
  bool alone = false, leave[2] = {};
  std::unique_ptr<AlignedFloats> arena, scratch;  // of the first member
};

// The threads' common state. Groups are taken in order.
struct Shared {
  const Raster& raster;
  const Job& job;
  const std::vector<Planes>& planes;
  const std::vector<Group> groups;
  std::vector<Team> teams;
  std::vector<std::atomic<int32_t>> rows;  // [groups], rows drawn of each
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> pixels{0};
  std::atomic<bool> stop{false};

  Shared(const Raster& raster, const Job& job, const std::vector<Planes>& planes, int threads)
      : raster(raster),
        job(job),
        planes(planes),
        groups(groups_of(job.count, threads)),
        teams(std::min<size_t>(threads, groups.size())),
        rows(groups.size()) {}

  // Whether a team's threads share the work of its group. Else its first one does all.
  bool is_shared(int team, int teams) const {
    return static_cast<size_t>(teams) == groups.size() && raster.shares(groups[team].count > 1);
  }

  void write_finished() const {
    for (size_t g = 0; g < groups.size(); ++g) {
      std::fill_n(job.finished + groups[g].first, groups[g].count, rows[g].load(std::memory_order_acquire));
    }
  }
};

// What a thread that waits for its team throws when the drawing is stopped.
struct Stopped {};
// And what it throws when the first one goes on alone.
struct Left {};

// One thread, and its way to draw a group in its team's rings: wide, with a lane for each of LANES images, or narrow,
// one image with its channels side by side. The members of a team share the work of each op, and wait for each other
// after it; each sum is one thread's.
class Worker {
 public:
  // The `number`-th thread of `count`.
  Worker(Shared& shared, int number, int count)
      : shared_(shared),
        raster_(shared.raster),
        model_(raster_.model),
        job_(shared.job),
        teams_(std::min(count, static_cast<int>(shared.groups.size()))),
        team_number_(number % teams_),
        team_(shared.teams[team_number_]),
        member_(number / teams_),
        team_size_(shared.is_shared(team_number_, teams_) ? (count - team_number_ + teams_ - 1) / teams_ : 1),
        fill_(model_.poison ? std::nanf("") : 0.0f),
        code_(static_cast<size_t>(model_.code_outputs) * LANES, fill_),
        uz_(model_.code_outputs),
        tap_at_(raster_.taps.size()),
        op_at_(raster_.ops.size()),
        lines_(raster_.taps.size()),
        runs_(raster_.ops.size()) {
    // Levels beyond the head's, which only a faulty canvas has, read the last one's.
    for (int level = 0; level < 256; ++level) {
      const float* seen = job_.table + std::min(level, job_.head.levels - 1) * job_.embedding;
      table_.insert(table_.end(), seen, seen + job_.embedding);
    }
    if (member_ == 0) {
      team_.arena = std::make_unique<AlignedFloats>(floats(raster_, shared.groups[0].count > 1), fill_);
      team_.scratch = std::make_unique<AlignedFloats>(scratch_of(raster_), fill_);
    } else {
      own_scratch_ = std::make_unique<AlignedFloats>(scratch_of(raster_), fill_);
    }
    for (const int32_t tiles : raster_.stage_tiles) {
      stage_code_.push_back(tile_code_.size());
      if (model_.code > 0) tile_code_.resize(tile_code_.size() + static_cast<size_t>(tiles) * raster_.tile, 0.0f);
    }
  }

  // Floats of a thread's rings. A group of one image may follow wide ones.
  static size_t floats(const Raster& raster, bool wide) {
    const size_t narrow = static_cast<size_t>(raster.narrow.size);
    return SLACK + (wide ? std::max(narrow, product_of({static_cast<size_t>(raster.wide.size), LANES})) : narrow);
  }

  void run() {
    if (member_ >= team_size_) return;
    try {
      meet(team_size_);
      arena_ = team_.arena->data();
      scratch_ = (own_scratch_ ? own_scratch_ : team_.scratch)->data();
      draw_groups();
    } catch (const Stopped&) {
    }
  }

 private:
  // Where the results of an op's first place go, and where its residual is; -1: nowhere.
  struct Places {
    int64_t raw, activated, residual;
  };

  void draw_groups() {
    if (shared_.groups.size() == static_cast<size_t>(teams_)) return draw_group(team_number_);
    while (!shared_.stop.load(std::memory_order_relaxed)) {
      const int64_t group = shared_.next.fetch_add(1, std::memory_order_relaxed);
      if (group >= static_cast<int64_t>(shared_.groups.size())) return;
      draw_group(static_cast<int>(group));
    }
  }

  // Waits for the other members of so many.
  void meet(int members) {
    if (members > 1 && !team_.barrier.wait(members, shared_.stop, &slept_)) throw Stopped();
  }

  // Waits for the other members that draw the row. If the first one sleeps for long, other processes have the cores: it
  // goes on alone, for some rows, each time for twice as many.
  void meet() {
    if (members_ == 1) return;
    bool& leave = team_.leave[++meetings_ % 2];
    if (member_ == 0) {
      leave = slept_ > std::chrono::milliseconds(1) && 4 * slept_ > Barrier::Clock::now() - row_began_;
    }
    meet(members_);
    if (!leave) return;
    if (member_ > 0) throw Left();
    members_ = 1;
    alone_ = rows_alone_ *= 2;
  }

  // Which members draw the next row.
  void gather() {
    meetings_ = 0;
    if (team_size_ == 1) return;
    if (member_ == 0) team_.alone = alone_ > 0;
    meet(team_size_);
    members_ = team_.alone ? 1 : team_size_;
    meet(team_size_);
    alone_ -= alone_ > 0;
    row_began_ = Barrier::Clock::now();
    slept_ = {};
    if (member_ >= members_) throw Left();
  }

  // Its share of `count` things that are alike, as the `part`-th of `parts`.
  static int share(int count, int part, int parts) { return static_cast<int>(int64_t{count} * part / parts); }

  static size_t scratch_of(const Raster& raster) {
    const size_t tiles = *std::max_element(raster.stage_tiles.begin(), raster.stage_tiles.end());
    const size_t wide = static_cast<size_t>(scratch_size(raster.model.outputs));
    return std::max(wide, CHANNEL_PLACES * tiles * raster.tile);
  }

  void draw_group(int group) {
    images_ = shared_.groups[group];
    is_wide_ = images_.count > 1;
    lanes_ = is_wide_ ? LANES : 1;
    layout_ = is_wide_ ? &raster_.wide : &raster_.narrow;
    if (member_ == 0) {
      if (model_.poison) std::fill_n(arena_, layout_->size * lanes_, fill_);
      clear_borders();
    }
    for (int image = 0; model_.code > 0 && image < images_.count; ++image) set_code(image);
    for (int row = 0; row < raster_.height; ++row) {
      try {
        gather();
        draw_row(row);
      } catch (const Left&) {
        continue;
      }
      if (member_ > 0) continue;
      shared_.pixels.fetch_add(int64_t{raster_.width} * images_.count, std::memory_order_relaxed);
      shared_.rows[group].store(row + 1, std::memory_order_release);
      if (shared_.stop.load(std::memory_order_relaxed)) return;
    }
  }

  void draw_row(int row) {
    begin_row(row);
    meet();
    ahead();
    for (int column = 0; column <= raster_.width; ++column) {
      step(column);
      if (column == raster_.width) break;
      draw_pixels(column);
      meet();
    }
  }

  float* at(int64_t number) { return arena_ + number * lanes_; }
  float* at_or_null(int64_t number) { return number < 0 ? nullptr : at(number); }
  int64_t place(int ring, int row, int column) const {
    return ring < 0 ? -1 : raster_.place(*layout_, ring, base_, row, column);
  }

  // Zeros on the left and on the right of every ring.
  void clear_borders() {
    for (size_t ring = 0; ring < raster_.rings.size(); ++ring) {
      const Ring& r = raster_.rings[ring];
      const int64_t numbers = layout_->place[ring], width = raster_.ring_width(static_cast<int>(ring));
      for (int row = 0; row < r.depth; ++row) {
        const int64_t begin = layout_->first[ring] + row * width * numbers;
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
    if (is_wide_) {
      for (size_t o = 0; o < outputs; ++o) code_.data()[o * LANES + image] = uz_[o];
      return;
    }
    for (size_t number = 0; number < raster_.stages.size(); ++number) {
      const RasterStage& stage = raster_.stages[number];
      const int halves = halves_of(stage.gate), channels = stage.outputs / halves;
      float* to = tile_code_.data() + stage_code_[number];
      for (int o = 0; stage.code >= 0 && o < stage.outputs; ++o) {
        to[o / channels * (raster_.stage_tiles[number] / halves * raster_.tile) + o % channels] = uz_[stage.code + o];
      }
    }
  }

  void begin_row(int row) {
    row_ = row;
    base_ = row / raster_.period;
    number_ = raster_.rows[row];
    kind_ = &raster_.kinds[number_];
    for (int number = kind_->op; number < kind_->op_end; ++number) {
      const RasterOp& op = raster_.ops[number];
      const RasterStage& stage = raster_.stages[op.stage];
      op_at_[number] = {place(stage.raw, op.row, op.first), place(stage.activated, op.row, op.first),
                        place(stage.residual, op.row, op.first)};
      for (int t = op.tap_begin; t < op.tap_end; ++t) {
        tap_at_[t] = place(raster_.taps[t].ring, raster_.taps[t].row, raster_.taps[t].column);
      }
      if (!is_wide_) prepare_narrow(number);
    }
    for (int i = kind_->load; member_ == 0 && i < kind_->load_end; ++i) load(raster_.loads[i]);
  }

  // A row of an input besides the pixels.
  void load(const RingRow& load) {
    const Ring& ring = raster_.rings[load.ring];
    const auto of = std::find(raster_.planes.begin(), raster_.planes.end(), load.ring) - raster_.planes.begin();
    const Planes& planes = shared_.planes[of];
    for (int image = 0; image < images_.count; ++image) {
      const int64_t n = planes.images > 1 ? images_.first + image : 0;
      const float* from =
          planes.array + (n * planes.height + load.row + base_ * ring.rise) * ring.width * ring.channels;
      for (int x = 0; x < ring.width; ++x) {
        float* to = at(place(load.ring, load.row, x)) + image;
        for (int c = 0; c < ring.channels; ++c) to[c * lanes_] = *from++;
      }
    }
  }

  // Everything of this row that waits for none of its pixels.
  void ahead() {
    for (int number = kind_->op; number < kind_->op_end; ++number) {
      const RasterOp& op = raster_.ops[number];
      const int end = op.waits ? op.tap_late : op.tap_end;
      if (op.waits && op.tap_begin == end) continue;
      if (is_wide_) {
        begin_wide();
        const int last = share(op.count, member_ + 1, members_);
        for (int at = share(op.count, member_, members_); at < last; ++at) {
          add_wide(number, at, op.tap_begin, end, op.waits, false);
        }
        run_wide(1);
      } else {
        run_narrow(number);
      }
      meet();
    }
  }

  // What waits for the first `column` pixels of the row, and for no more.
  void step(int column) {
    const int32_t* begins = raster_.step_begins.data() + static_cast<int64_t>(number_) * (raster_.width + 2) + column;
    if (is_wide_) begin_wide();
    for (int i = begins[0]; i < begins[1]; ++i) {
      const RasterStep& next = raster_.steps[i];
      const RasterOp& op = raster_.ops[next.op];
      const bool continues = op.tap_begin < op.tap_late;
      if (is_wide_) {
        add_wide(next.op, next.place, op.tap_late, op.tap_end, false, continues);
        continue;
      }
      // It reads the zeros beside a row too, so that all weights follow each other.
      ChannelsRun& run = runs_[next.op];
      const int32_t number = op.bias + next.place;
      const float* start = continues ? at(layout_->partials[number]) : &raster_.tile_bias[raster_.place_bias[number]];
      run.start = &start;
      run.place = next.place;
      const size_t slices = raster_.in_order.size();
      for (int slice = member_; slice < raster_.slices(op.stage); slice += members_) {
        run.in_order = raster_.in_order[slice].data() + raster_.op_in_order[next.op * slices + slice];
        run.begin = raster_.slice_begin(op.stage, slice);
        run.end = raster_.slice_begin(op.stage, slice + 1);
        model_.kernels->channels(run);
      }
      meet();
    }
    if (is_wide_) run_wide(members_);
  }

  // An op of the row in work as narrow kernels take it: wholly for one that runs ahead, else its steps.
  void prepare_narrow(int number) {
    const RasterOp& op = raster_.ops[number];
    const RasterStage& stage = raster_.stages[op.stage];
    for (int t = op.tap_begin; t < op.tap_end; ++t) {
      const RasterTap& tap = raster_.taps[t];
      lines_[t] = {at(tap_at_[t]), int64_t{tap.step} * layout_->place[tap.ring],
                   raster_.tiles.data() + raster_.tap_tiles[t], raster_.numbers[tap.ring]};
    }
    ChannelsRun& run = runs_[number];
    run = {};
    run.taps = lines_.data() + (op.waits ? op.tap_late : op.tap_begin);
    run.taps_end = lines_.data() + op.tap_end;
    run.tile = raster_.tile;
    run.tiles = raster_.stage_tiles[op.stage];
    run.gated = stage.gate != GATE_NONE;
    run.tanh = stage.gate == GATE_TANH;
    run.channels = raster_.channels(op.stage);
    run.of_pairs = of_pairs(stage);
    const bool continues = op.waits && op.tap_begin < op.tap_late;
    run.code = stage.code < 0 || continues ? nullptr : tile_code_.data() + stage_code_[op.stage];
    const auto set = [&](int ring, int64_t place, int64_t* step) {
      *step = ring < 0 ? 0 : int64_t{op.step} * layout_->place[ring];
      return ring < 0 ? nullptr : at(place);
    };
    run.raw = set(stage.raw, op_at_[number].raw, &run.raw_step);
    run.activated = set(stage.activated, op_at_[number].activated, &run.activated_step);
    run.residual = set(stage.residual, op_at_[number].residual, &run.residual_step);
    run.form = stage.activated < 0 ? FORM_PAIRS : raster_.rings[stage.activated].form;
    run.scratch = scratch_;
  }

  // What an op has to do ahead.
  void run_narrow(int number) {
    const RasterOp& op = raster_.ops[number];
    const RasterStage& stage = raster_.stages[op.stage];
    starts_.resize(op.count);
    sums_.resize(op.count);
    for (int i = 0; i < op.count; ++i) {
      starts_[i] = raster_.tile_bias.data() + raster_.place_bias[op.bias + i];
      sums_[i] = at(layout_->partials[op.bias + i]);
    }
    ChannelsRun run = runs_[number];
    run.start = starts_.data();
    if (op.waits) {  // partial sums
      run.taps = lines_.data() + op.tap_begin;
      run.taps_end = lines_.data() + op.tap_late;
      run.code = stage.code < 0 ? nullptr : tile_code_.data() + stage_code_[op.stage];
      run.sum = sums_.data();
    }
    // Each member computes as many tiles, so that it reads no weights but theirs. Of those left over they share the
    // places.
    const int tiles = raster_.padded(op.stage) / raster_.tile, own = tiles / members_;
    run.begin = member_ * own * raster_.tile;
    run.end = run.begin + own * raster_.tile;
    run.place_end = op.count;
    model_.kernels->channels(run);
    run.begin = members_ * own * raster_.tile;
    run.end = tiles * raster_.tile;
    run.place = share(op.count, member_, members_);
    run.place_end = share(op.count, member_ + 1, members_);
    model_.kernels->channels(run);
  }

  // Whether a stage's residual is kept as (elu(x), elu(-x)).
  bool of_pairs(const RasterStage& stage) const {
    return stage.residual >= 0 && raster_.rings[stage.residual].form == FORM_PAIRS;
  }

  void begin_wide() { ops_.clear(), taps_.clear(), alike_.clear(), of_pairs_.clear(); }

  // One place of an op, as wide kernels take it: its taps [begin, end). leaves, continues: its partial sums.
  void add_wide(int number, int place, int begin, int end, bool leaves, bool continues) {
    const RasterOp& op = raster_.ops[number];
    const RasterStage& stage = raster_.stages[op.stage];
    const auto partial = static_cast<int32_t>(layout_->partials[op.bias + place]);
    const auto in = [&](int ring, int64_t first) {
      return ring < 0 ? -1 : static_cast<int32_t>(first + int64_t{place} * op.step * layout_->place[ring]);
    };
    Op one;
    one.bias = raster_.biases[op.bias + place];
    one.code = stage.code;
    one.partial_in = continues ? partial : -1;
    one.partial_out = leaves ? partial : -1;
    one.residual = in(stage.residual, op_at_[number].residual);
    one.residual_ahead = -1;
    one.raw = in(stage.raw, op_at_[number].raw);
    one.activated = in(stage.activated, op_at_[number].activated);
    one.outputs = stage.outputs;
    one.gate = stage.gate;
    one.form = stage.activated < 0 ? FORM_PAIRS : raster_.rings[stage.activated].form;
    one.tap_begin = static_cast<int32_t>(taps_.size());
    for (int t = begin; t < end; ++t) {
      const RasterTap& tap = raster_.taps[t];
      if (place < tap.inside || place >= tap.inside_end) continue;
      const int64_t source = tap_at_[t] + int64_t{place} * tap.step * layout_->place[tap.ring];
      taps_.push_back({static_cast<int32_t>(source), tap.weights, raster_.numbers[tap.ring], 0});
    }
    one.tap_end = static_cast<int32_t>(taps_.size());
    ops_.push_back(one);
    of_pairs_.push_back(of_pairs(stage));
  }

  // members: that run the same ops, and share the outputs of each.
  void run_wide(int members) {
    if (ops_.empty()) return;
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
    run.bias = model_.bias.data();
    run.code = code_.data();
    run.arena = arena_;
    run.of_pairs = of_pairs_.data();
    run.scratch = members > 1 ? team_.scratch->data() : scratch_;
    run.member = member_;
    run.members = members;
    run.meet = [](void* worker) { static_cast<Worker*>(worker)->meet(static_cast<Worker*>(worker)->members_); };
    run.team = this;
    run.next = reinterpret_cast<const char*>(model_.packed.data());
    model_.kernels->wide(run);
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
    const float* params = at(place(raster_.params, row, column));
    float* seen = at(place(raster_.pixels, row, column));
    for (int image = member_; image < images_.count; image += members_) {
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
  const int teams_, team_number_;
  Team& team_;
  const int member_, team_size_;
  int members_ = 1;  // that draw the row in work
  Barrier::Clock::time_point row_began_;
  Barrier::Clock::duration slept_{};
  int alone_ = 0, rows_alone_ = 1;  // rows that it still draws alone, and how many it last did
  uint32_t meetings_ = 0;           // of the row
  const float fill_;
  float *arena_ = nullptr, *scratch_ = nullptr;
  std::unique_ptr<AlignedFloats> own_scratch_;
  AlignedFloats code_;                 // of wide groups, [L][LANES]
  std::vector<float> uz_, tile_code_;  // tile_code_: of one image, each stage's in tiles
  std::vector<size_t> stage_code_;     // where each stage's begins
  std::vector<float> table_;           // [256][e]
  // The group in work.
  Group images_{0, 0};
  bool is_wide_ = false;
  int lanes_ = 1;
  const Layout* layout_ = nullptr;
  // The row in work.
  int row_ = 0, number_ = 0;
  int64_t base_ = 0;
  const Kind* kind_ = nullptr;
  std::vector<int64_t> tap_at_;  // the source of each tap's first place
  std::vector<Places> op_at_;
  // Ops that are about to run.
  std::vector<Op> ops_;
  std::vector<Tap> taps_;
  std::vector<int32_t> alike_;
  std::vector<uint8_t> of_pairs_;
  std::vector<ChannelsTap> lines_;  // of each tap
  std::vector<ChannelsRun> runs_;   // of each op
  std::vector<const float*> starts_;
  std::vector<float*> sums_;
};

}  // namespace

int workers_of(const Raster& raster, int images, int threads) {
  const std::vector<Group> groups = groups_of(images, threads);
  return raster.shares(groups[0].count > 1) ? threads : std::min(threads, static_cast<int>(groups.size()));
}

void draw(const Raster& raster, const Job& job, const std::vector<Planes>& planes, int threads,
          const std::function<bool(int64_t)>& report) {
  Shared shared(raster, job, planes, threads);
  require_memory("threads",
                 product_of({shared.teams.size(), sizeof(float), Worker::floats(raster, shared.groups[0].count > 1)}));
  std::fill_n(job.finished, job.count, 0);
  const auto work = [&](int number, int count) { Worker(shared, number, count).run(); };
  draw_in_threads(workers_of(raster, job.count, threads), shared, work, report);
}

}  // namespace spx
