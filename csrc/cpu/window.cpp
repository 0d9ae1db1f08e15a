// Drawing by windows: which of them run side by side, on which thread, and when.
#include <algorithm>

#include "engine.h"
#include "machine.h"
#include "places.h"
#include "threads.h"

namespace spx {
namespace {

// What the network is told at the places of windows of one row of an image.
//
// Windows of a row share their rows' coordinates, so the feature maps are sampled along y once for all of them.
class Telling {
 public:
  Telling(const Model& model, const Job& job) : model_(model), job_(job) {
    for (size_t k = 1; k < model.inputs.size(); ++k) {
      first_line_.push_back(lines_), first_column_.push_back(static_cast<int>(columns_.size()));
      lines_ += model.inputs[k].height;
      columns_.resize(columns_.size() + model.inputs[k].width);
    }
    y_.resize(lines_);
  }

  // Bytes of the maps sampled along y, for LANES images.
  static size_t bytes(const Model& model, const Job& job) {
    size_t lines = 0;
    for (size_t k = 1; k < model.inputs.size(); ++k) lines += model.inputs[k].height;
    return product_of({sizeof(float), static_cast<size_t>(std::min(LANES, job.count)), lines,
                       static_cast<size_t>(job.map_count), static_cast<size_t>(job.map_width)});
  }

  // y0: the windows' first row. first_image, images: which of the job's.
  void set_row(int y0, int first_image, int images) {
    const int side = model_.inputs[0].height, width = job_.map_width;
    rows_.resize(static_cast<size_t>(images) * lines_ * job_.map_count * width);
    float* to = rows_.data();
    for (int n = first_image; n < first_image + images; ++n) {
      float* y = y_.data();
      for (size_t k = 1; k < model_.inputs.size(); ++k) {
        const int height = model_.inputs[k].height;
        for (int i = 0; i < height; ++i, ++y) {
          *y = place_coordinate(job_.y_axis, y0, side, i, height);
          const Between at = between(*y, job_.map_height);
          for (int j = 0; j < job_.map_count; ++j, to += width) {
            const float* above = map_of(job_, n, j) + static_cast<int64_t>(at.first) * width;
            const float* below = above + at.next * width;
            for (int x = 0; x < width; ++x) to[x] = blend(above[x], below[x], at.fraction);
          }
        }
      }
    }
  }

  // Writes what the window whose first column is x0 is told, of the `image`-th image of set_row, for a program.
  void write(const Program& program, int image, int x0, Machine::Place to) {
    const int side = model_.inputs[0].width, width = job_.map_width;
    Column* column = columns_.data();
    for (size_t k = 1; k < model_.inputs.size(); ++k) {
      const int count = model_.inputs[k].width;
      for (int i = 0; i < count; ++i, ++column) {
        column->x = place_coordinate(job_.x_axis, x0, side, i, count);
        if (job_.map_count) column->at = between(column->x, width);
      }
    }
    for (const Told& told : program.told) {
      const int across = model_.inputs[1 + told.input].width;
      const int line = first_line_[told.input] + told.place / across;
      const Column& at = columns_[first_column_[told.input] + told.place % across];
      int32_t row = told.row;
      to[row++] = y_[line];
      to[row++] = at.x;
      for (int i = 0; i < job_.extra_count; ++i) to[row++] = job_.extra[i];
      const float* map = rows_.data() + (static_cast<int64_t>(image) * lines_ + line) * job_.map_count * width;
      map += at.at.first;
      for (int j = 0; j < job_.map_count; ++j, map += width) to[row++] = blend(map[0], map[at.at.next], at.at.fraction);
    }
  }

 private:
  struct Column {
    float x = 0.0f;
    Between at{};
  };

  const Model& model_;
  const Job& job_;
  int lines_ = 0;                               // rows of places, of all inputs together
  std::vector<int> first_line_, first_column_;  // of each input
  std::vector<Column> columns_;                 // of the window being written
  std::vector<float> y_;                        // [lines]
  std::vector<float> rows_;                     // [images][lines][M][map_width], sampled along y
};

// Images that are drawn together, a lane each, or one image alone whose columns are the lanes.
struct Group {
  int first, count;
};

// Windows from which one wide run beats narrow ones. fp32 gives the same bits both ways; bf16 has wide kernels only.
inline int wide_from(const Model& model) { return model.tile_kernels ? 1 : 4; }

// Columns over which an image alone looks for LANES pixels that are not given.
constexpr int SPAN = 4 * LANES;

// Groups of a job's images: full ones of LANES; what is left over together if that is less work than one by one.
std::vector<Group> groups_of(const Model& model, const Job& job, int threads) {
  const int n = job.count, m = model.inputs[0].width;
  // In wide runs a row: together, one for each column; alone, one for LANES columns, and about three for the steps, the
  // first window and the last, incomplete run.
  const double together = job.width - m + 1, alone = 3.0 + static_cast<double>(job.width - m) / LANES;
  // Rows of one group follow each other m columns apart; too few of them leave threads idle.
  const int at_once = std::max(1, std::min(job.height, job.width / m));
  std::vector<Group> groups;
  for (int first = 0; first < n;) {
    const int count = std::min(LANES, n - first);
    const bool enough = static_cast<int64_t>((n + LANES - 1) / LANES) * at_once >= threads;
    if (enough && together < count * alone) {
      groups.push_back({first, count});
      first += count;
    } else {
      groups.push_back({first, 1});
      first += 1;
    }
  }
  return groups;
}

// The threads' common state. An item is one row of one group; items are taken in order and each waits only for an
// earlier one, the row above, so that there is always one that can go on.
struct Shared {
  const Model& model;
  const Job& job;
  const std::vector<Group> groups;
  const int threads;
  std::vector<std::atomic<int32_t>> columns;  // [groups][H], columns drawn of each row
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> pixels{0};
  std::atomic<bool> stop{false};

  Shared(const Model& model, const Job& job, int threads)
      : model(model),
        job(job),
        groups(groups_of(model, job, threads)),
        threads(threads),
        columns(groups.size() * static_cast<size_t>(job.height)) {}

  int64_t items() const { return static_cast<int64_t>(columns.size()); }

  // As many groups as threads go down their rows together: no thread waits for another while there are enough, and few
  // rows are in work at a time.
  void place_of(int64_t item, int* group, int* row) const {
    const int64_t block = item / (static_cast<int64_t>(threads) * job.height);
    const int64_t first = block * threads, inside = item - first * job.height;
    const int64_t together = std::min<int64_t>(threads, static_cast<int64_t>(groups.size()) - first);
    *group = static_cast<int>(first + inside % together);
    *row = static_cast<int>(inside / together);
  }

  std::atomic<int32_t>& drawn(int group, int row) { return columns[static_cast<size_t>(group) * job.height + row]; }

  // Writes how many rows of each image are complete from the top.
  void write_finished() {
    for (size_t g = 0; g < groups.size(); ++g) {
      // What Python may have written meanwhile is no index.
      int64_t rows = std::min<int64_t>(std::max<int64_t>(job.finished[groups[g].first], 0), job.height);
      while (rows < job.height &&
             drawn(static_cast<int>(g), static_cast<int>(rows)).load(std::memory_order_acquire) == job.width) {
        ++rows;
      }
      std::fill_n(job.finished + groups[g].first, groups[g].count, rows);
    }
  }
};

class Worker {
 public:
  explicit Worker(Shared& shared)
      : shared_(shared), model_(shared.model), job_(shared.job), machine_(model_), telling_(model_, job_) {
    // Levels beyond the head's, which only a faulty canvas has, read the last one's.
    for (int level = 0; level < 256; ++level) {
      const float* seen = job_.table + std::min(level, job_.head.levels - 1) * job_.embedding;
      table_.insert(table_.end(), seen, seen + job_.embedding);
    }
  }

  void run() {
    while (!shared_.stop.load(std::memory_order_relaxed)) {
      const int64_t item = shared_.next.fetch_add(1, std::memory_order_relaxed);
      if (item >= shared_.items()) return;
      int group, row;
      shared_.place_of(item, &group, &row);
      draw_row(group, row);
    }
  }

 private:
  int side() const { return model_.inputs[0].width; }

  void draw_row(int group, int row) {
    const int m = side();
    group_ = group, row_ = row;
    images_ = shared_.groups[group];
    place_row_ = std::min(row, m - 1);
    for (int image = 0; model_.code > 0 && image < images_.count; ++image) {
      const float* z = job_.code + static_cast<int64_t>(images_.first + image) * model_.code;
      machine_.set_code(image, images_.count == 1 ? LANES : 1, z);  // one image alone is in every lane
    }
    telling_.set_row(row - place_row_, images_.first, images_.count);
    if (!wait(m)) return;
    first_window();
    if (images_.count > 1) {
      images_side_by_side();
    } else {
      columns_side_by_side();
    }
  }

  // Whether a pixel of this row has to be computed: it is not given, or its parameters are wanted.
  bool is_wanted(int image, int column) const {
    return job_.params || !is_given(job_, images_.first + image, row_, column);
  }
  bool is_wanted(int column) const {
    for (int image = 0; image < images_.count; ++image) {
      if (is_wanted(image, column)) return true;
    }
    return false;
  }

  // The first m pixels of the row share the window at column 0. A step may read what the steps before it left.
  void first_window() {
    const Program& program = model_.programs[2 * place_row_ + 1];
    const int m = side();
    int steps = m;
    while (steps > 0 && !is_wanted(steps - 1)) --steps;
    if (steps > 0 && images_.count >= wide_from(model_)) {
      for (int lane = 0; lane < images_.count; ++lane) write_ahead(program, lane, 0, machine_.wide(lane));
      machine_.run_wide(program, 0);
      for (int c = 0; c < steps; ++c) step_wide(program, c, 0, c);
    } else if (steps > 0) {
      for (int image = 0; image < images_.count; ++image) {
        write_ahead(program, image, 0, machine_.narrow());
        machine_.run_narrow(program, 0, image, -1);
        for (int c = 0; c < steps; ++c) step_narrow(program, c, image, 0, c, -1);
      }
    }
    advance(m);
  }

  // Lanes are images, one column after the other.
  void images_side_by_side() {
    const Program& program = model_.programs[2 * place_row_];
    for (int c = side(); c < job_.width; ++c) {
      if (!wait(c + 1)) return;
      const int x0 = c - side() + 1;
      if (!is_wanted(c)) {
        // nothing to do
      } else if (images_.count >= wide_from(model_)) {
        for (int lane = 0; lane < images_.count; ++lane) write_ahead(program, lane, x0, machine_.wide(lane));
        machine_.run_wide(program, 0);
        step_wide(program, 0, x0, c);
      } else {
        for (int image = 0; image < images_.count; ++image) {
          if (!is_wanted(image, c)) continue;
          write_ahead(program, image, x0, machine_.narrow());
          machine_.run_narrow(program, 0, image, -1);
          step_narrow(program, 0, image, x0, c, -1);
        }
      }
      advance(c + 1);
    }
  }

  // Lanes are columns of one image: the ahead part of all of them, then their steps one by one.
  void columns_side_by_side() {
    const Program& program = model_.programs[2 * place_row_];
    for (int c = side(); c < job_.width;) {
      int columns[LANES], count = 0;
      for (const int end = std::min(job_.width, c + SPAN); c < end && count < LANES; ++c) {
        if (is_wanted(0, c)) columns[count++] = c;
      }
      if (!wait(c)) return;
      const bool wide = count >= wide_from(model_);
      for (int lane = 0; wide && lane < count; ++lane) {
        write_ahead(program, 0, columns[lane] - side() + 1, machine_.wide(lane));
      }
      if (wide) machine_.run_wide(program, 0);
      for (int lane = 0; lane < count; ++lane) {
        const int x0 = columns[lane] - side() + 1;
        if (!wide) {
          write_ahead(program, 0, x0, machine_.narrow());
          machine_.run_narrow(program, 0, 0, -1);
        }
        step_narrow(program, 0, 0, x0, columns[lane], wide ? lane : -1);
        advance(columns[lane] + 1);
      }
      advance(c);
    }
  }

  int64_t pixel(int image, int row, int column) const {
    return (static_cast<int64_t>(images_.first + image) * job_.height + row) * job_.width + column;
  }

  // Everything the ahead part reads: pixels of the rows above, and what places are told.
  void write_ahead(const Program& program, int image, int x0, Machine::Place to) {
    write_pixels(program, image, x0, 0, place_row_ * side(), to);
    telling_.write(program, image, x0, to);
  }

  // The window's pixels with places from `begin` to before `end`.
  void write_pixels(const Program& program, int image, int x0, int begin, int end, Machine::Place to) const {
    const int m = side(), channels = job_.head.channels, e = job_.embedding;
    for (const Pixel& at : program.pixels) {
      if (at.place < begin || at.place >= end) continue;
      const int64_t number = pixel(image, row_ - place_row_ + at.place / m, x0 + at.place % m);
      int32_t row = at.row;
      for (int c = 0; c < channels; ++c) {
        const float* seen = table_.data() + job_.pixels[number * channels + c] * e;
        for (int i = 0; i < e; ++i) to[row++] = seen[i];
      }
    }
  }

  void step_wide(const Program& program, int t, int x0, int column) {
    const int first = place_row_ * side();
    for (int lane = 0; lane < images_.count; ++lane) {
      write_pixels(program, lane, x0, first, program.targets[t], machine_.wide(lane));
    }
    machine_.run_wide(program, 1 + t);
    for (int lane = 0; lane < images_.count; ++lane) {
      draw_pixel(lane, column, &machine_.wide(lane)[program.params[t]], LANES);
    }
  }

  void step_narrow(const Program& program, int t, int image, int x0, int column, int ahead) {
    write_pixels(program, image, x0, place_row_ * side(), program.targets[t], machine_.narrow());
    machine_.run_narrow(program, 1 + t, image, ahead);
    draw_pixel(image, column, &machine_.narrow()[program.params[t]], 1);
  }

  void draw_pixel(int image, int column, const float* params, int stride) {
    const int64_t number = pixel(image, row_, column);
    if (job_.params) {
      float* kept = job_.params + number * model_.parameters;
      for (int p = 0; p < model_.parameters; ++p) kept[p] = params[p * stride];
    }
    if (is_given(job_, images_.first + image, row_, column)) return;
    uint32_t words[4];
    pixel_words(job_.seed, static_cast<uint32_t>(row_), static_cast<uint32_t>(column),
                job_.images[images_.first + image], job_.draw, words);
    draw(job_.head, params, stride, words, job_.temperature, job_.mode, job_.pixels + number * job_.head.channels);
  }

  // Makes the first `columns` pixels of this row visible to the row below.
  void advance(int columns) {
    std::atomic<int32_t>& drawn = shared_.drawn(group_, row_);
    const int32_t before = drawn.load(std::memory_order_relaxed);
    drawn.store(columns, std::memory_order_release);
    shared_.pixels.fetch_add(static_cast<int64_t>(columns - before) * images_.count, std::memory_order_relaxed);
  }

  // Until the row above has so many pixels; false if the drawing is to stop. Given pixels wait too: a row that has so
  // many says so of all rows above it.
  bool wait(int columns) const {
    if (row_ > 0) {
      const std::atomic<int32_t>& above = shared_.drawn(group_, row_ - 1);
      for (int turn = 0; above.load(std::memory_order_acquire) < columns; ++turn) {
        if (shared_.stop.load(std::memory_order_relaxed)) return false;
        if (turn > 100) std::this_thread::yield();
      }
    }
    return !shared_.stop.load(std::memory_order_relaxed);
  }

  Shared& shared_;
  const Model& model_;
  const Job& job_;
  Machine machine_;
  Telling telling_;
  std::vector<float> table_;  // [256][e]
  // The item in work.
  int group_ = 0, row_ = 0, place_row_ = 0;
  Group images_{0, 0};
};

}  // namespace

void draw(const Model& model, const Job& job, int threads, const std::function<bool(int64_t)>& report) {
  const int64_t rows = int64_t{job.count} * job.height;
  const size_t of_a_thread = Machine::bytes(model) + Telling::bytes(model, job);
  require_memory("threads", product_of({static_cast<size_t>(std::min<int64_t>(threads, rows)), of_a_thread}));
  Shared shared(model, job, threads);
  std::fill_n(job.finished, job.count, 0);
  const int workers = static_cast<int>(std::min<int64_t>(threads, shared.items()));
  draw_in_threads(workers, shared, [&](int, int) { Worker(shared).run(); }, report);
}

}  // namespace spx
