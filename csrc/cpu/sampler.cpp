#include "sampler.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "../draw.h"

namespace spx {
namespace {

// Zeroed floats at a 64-byte boundary, where a wide register is loaded fastest.
class AlignedFloats {
 public:
  explicit AlignedFloats(size_t count)
      : data_(static_cast<float*>(::operator new[](std::max<size_t>(count, 1) * sizeof(float), std::align_val_t{64}))) {
    std::memset(data_, 0, count * sizeof(float));
  }
  ~AlignedFloats() { ::operator delete[](data_, std::align_val_t{64}); }
  AlignedFloats(const AlignedFloats&) = delete;
  AlignedFloats& operator=(const AlignedFloats&) = delete;
  float* data() { return data_; }

 private:
  float* data_;
};

// One thread's memory and its way to run programs: wide for LANES windows, narrow for one of them.
class Machine {
 public:
  explicit Machine(const Model& model)
      : model(model),
        wide_(static_cast<size_t>(model.rows) * LANES),
        narrow_(static_cast<size_t>(model.rows) + SLACK),
        latent_(static_cast<size_t>(model.latent_outputs) * LANES),
        scratch_(scratch_size(model.outputs)),
        uz_(model.latent_outputs) {}

  // Where number `row` of a lane is: rows of the wide arena are LANES apart, those of the narrow one 1.
  struct Place {
    float* at;
    int stride;
    float& operator[](int32_t row) const { return at[static_cast<int64_t>(row) * stride]; }
  };
  Place wide(int lane) { return {wide_.data() + lane, LANES}; }
  Place narrow() { return {narrow_.data(), 1}; }

  // U z of every layer, for `count` lanes from `lane` on. z: [Z].
  void set_latent(int lane, int count, const float* z) {
    std::fill(uz_.begin(), uz_.end(), 0.0f);
    const size_t outputs = uz_.size();
    for (int i = 0; i < model.latent; ++i) {
      const float* u = model.latent_weights.data() + i * outputs;
      for (size_t o = 0; o < outputs; ++o) uz_[o] += u[o] * z[i];
    }
    for (size_t o = 0; o < outputs; ++o) std::fill_n(latent_.data() + o * LANES + lane, count, uz_[o]);
  }

  // part 0 runs what is ahead, 1 + t step t.
  void run_wide(const Program& program, int part) {
    Run run = prepare(program, part);
    run.arena = wide_.data();
    // Steps depend on nothing in bf16 but on partial sums and residuals, which are fp32: so are they.
    if (model.tile_kernels && part == 0) {
      model.tile_kernels->wide(run);
    } else {
      model.kernels->wide(run);
    }
  }

  // Steps of a window that was run ahead with wide kernels take up from lane `ahead`; -1: with narrow ones.
  void run_narrow(const Program& program, int part, int lane, int ahead) {
    Run run = prepare(program, part);
    run.latent += lane;
    run.arena = narrow_.data();
    run.ahead = ahead < 0 ? narrow_.data() : wide_.data() + ahead;
    run.ahead_stride = ahead < 0 ? 1 : LANES;
    model.kernels->narrow(run);
  }

  const Model& model;

 private:
  Run prepare(const Program& program, int part) {
    Run run{};
    run.begin = program.ops.data() + program.begins[part];
    run.end = program.ops.data() + program.begins[part + 1];
    run.taps = program.taps.data();
    run.alike = program.alike.data() + program.begins[part];
    run.packed = model.packed.data();
    run.first_tile = program.first_tile.data();
    run.tiles = model.tiles.data();
    run.pairs = model.pairs;
    run.weights = model.weights.data();
    run.bias = model.bias.data();
    run.latent = latent_.data();
    run.scratch = scratch_.data();
    run.next = reinterpret_cast<const char*>(model.packed.data());
    return run;
  }

  AlignedFloats wide_, narrow_, latent_, scratch_;
  std::vector<float> uz_;
};

// Fractions of a window's range at which the places of a resolution lie (paper, section 4.1;
// spxcore.coords.place_axis).
inline float place_step(int place, int places) {
  return places > 1 ? static_cast<float>(place) / static_cast<float>(places - 1) : 0.5f;
}

// Where a coordinate in [-1, 1] falls between two of `count` samples, the outer ones at the ends of the range.
struct Between {
  int first;
  float fraction;
  Between() : first(0), fraction(0.0f) {}
  Between(float coordinate, int count) {
    const float at = std::min(std::max((coordinate + 1.0f) / 2.0f * static_cast<float>(count - 1), 0.0f),
                              static_cast<float>(count - 1));
    first = std::min(static_cast<int>(at), std::max(count - 2, 0));
    fraction = at - static_cast<float>(first);
  }
};

// What the network is told at the places of windows of one row of an image: spxcore.network.place_inputs.
//
// Windows of a row share their rows' coordinates, so the feature maps are interpolated along y once for all of them.
class Conditioning {
 public:
  Conditioning(const Model& model, const ImageJob& job)
      : model_(model), job_(job), maps_(std::max(model.place_inputs - 3, 0)), columns_(all_sides()), y_(all_sides()) {}

  // y0: the windows' first row. images: which of the job's.
  void set_row(int y0, int first_image, int images) {
    if (model_.place_inputs == 0) return;
    const int m = model_.patch, width = job_.map_width;
    rows_.resize(static_cast<size_t>(images) * all_sides() * maps_ * width);
    float* to = rows_.data();
    for (int n = first_image; n < first_image + images; ++n) {
      for (int k = 0, line = 0; k < 3; ++k) {
        for (int i = 0; i < m >> k; ++i, ++line) {
          const float step = place_step(i, m >> k);
          y_[line] = job_.y_axis[y0] * (1.0f - step) + job_.y_axis[y0 + m - 1] * step;
          const Between at(y_[line], job_.map_height);
          for (int j = 0; j < maps_; ++j, to += width) {
            const float* above =
                job_.maps + ((static_cast<int64_t>(n) * maps_ + j) * job_.map_height + at.first) * width;
            const float* below = job_.map_height > 1 ? above + width : above;
            for (int x = 0; x < width; ++x) to[x] = above[x] * (1.0f - at.fraction) + below[x] * at.fraction;
          }
        }
      }
    }
  }

  // Writes the inputs of the window whose first column is x0, of the `image`-th image of set_row, for a program.
  void write(const Program& program, int image, int x0, Machine::Place to) {
    if (model_.place_inputs == 0) return;
    const int m = model_.patch, width = job_.map_width;
    for (int k = 0, line = 0; k < 3; ++k) {
      for (int i = 0; i < m >> k; ++i, ++line) {
        const float step = place_step(i, m >> k);
        columns_[line].x = job_.x_axis[x0] * (1.0f - step) + job_.x_axis[x0 + m - 1] * step;
        if (maps_) columns_[line].at = Between(columns_[line].x, width);
      }
    }
    const int next = width > 1 ? 1 : 0;
    const int line_of[3] = {0, m, m + m / 2};
    for (size_t i = 0; i < program.conditioning.size(); i += 3) {
      const int32_t k = program.conditioning[i], place = program.conditioning[i + 1], row = program.conditioning[i + 2];
      const int side = m >> k, line = line_of[k] + place / side;
      const Column& column = columns_[line_of[k] + place % side];
      to[row] = y_[line];
      to[row + 1] = column.x;
      if (model_.place_inputs == 2) continue;
      to[row + 2] = job_.scale;
      const float* map =
          rows_.data() + static_cast<int64_t>(image * all_sides() + line) * maps_ * width + column.at.first;
      for (int j = 0; j < maps_; ++j, map += width) {
        to[row + 3 + j] = map[0] * (1.0f - column.at.fraction) + map[next] * column.at.fraction;
      }
    }
  }

 private:
  struct Column {
    float x = 0.0f;
    Between at;
  };

  int all_sides() const { return model_.patch + model_.patch / 2 + model_.patch / 4; }

  const Model& model_;
  const ImageJob& job_;
  int maps_;                     // M
  std::vector<Column> columns_;  // [all_sides] of the window being written
  std::vector<float> y_;         // [all_sides]
  std::vector<float> rows_;      // [images][all_sides][M][map_width], interpolated along y
};

// Images that are drawn together, a lane each, or one image alone whose columns are the lanes.
struct Group {
  int first, count;
};

// From so many windows on, one wide run is faster than a narrow run of each. Their bits are the same in fp32; in bf16
// what runs ahead is always wide.
inline int wide_from(const Model& model) { return model.tile_kernels ? 1 : 4; }

// Groups of a job's images: full ones of LANES; what is left over together if that is less work than one by one.
std::vector<Group> groups_of(const Model& model, const ImageJob& job, int threads) {
  const int n = static_cast<int>(job.images.size()), m = model.patch;
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
  const ImageJob& job;
  const std::vector<Group> groups;
  const int threads;
  std::vector<std::atomic<int32_t>> columns;  // [groups][H], columns drawn of each row
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> pixels{0};
  std::atomic<bool> stop{false};

  Shared(const Model& model, const ImageJob& job, int threads)
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
};

class Worker {
 public:
  explicit Worker(Shared& shared)
      : shared_(shared), model_(shared.model), job_(shared.job), machine_(model_), conditioning_(model_, job_) {
    for (int level = 0; level < 256; ++level) unit_[level] = to_unit(static_cast<uint8_t>(level));
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
  void draw_row(int group, int row) {
    const int m = model_.patch;
    group_ = group, row_ = row;
    images_ = shared_.groups[group];
    place_row_ = std::min(row, m - 1);
    for (int image = 0; model_.latent > 0 && image < images_.count; ++image) {
      const float* z = job_.z + static_cast<int64_t>(images_.first + image) * model_.latent;
      machine_.set_latent(image, images_.count == 1 ? LANES : 1, z);  // one image alone is in every lane
    }
    conditioning_.set_row(row - place_row_, images_.first, images_.count);
    if (!wait(m)) return;
    first_window();
    if (images_.count > 1) {
      images_side_by_side();
    } else {
      columns_side_by_side();
    }
  }

  // The first m pixels of the row share the window at column 0.
  void first_window() {
    const Program& program = model_.programs[2 * place_row_ + 1];
    const int m = model_.patch;
    if (images_.count >= wide_from(model_)) {
      for (int lane = 0; lane < images_.count; ++lane) write_ahead(program, lane, 0, machine_.wide(lane));
      machine_.run_wide(program, 0);
      for (int c = 0; c < m; ++c) step_wide(program, c, 0, c);
    } else {
      for (int image = 0; image < images_.count; ++image) {
        write_ahead(program, image, 0, machine_.narrow());
        machine_.run_narrow(program, 0, image, -1);
        for (int c = 0; c < m; ++c) step_narrow(program, c, image, 0, c, -1);
      }
    }
    advance(m);
  }

  // Lanes are images, one column after the other.
  void images_side_by_side() {
    const Program& program = model_.programs[2 * place_row_];
    for (int c = model_.patch; c < job_.width; ++c) {
      if (!wait(c + 1)) return;
      const int x0 = c - model_.patch + 1;
      if (images_.count >= wide_from(model_)) {
        for (int lane = 0; lane < images_.count; ++lane) write_ahead(program, lane, x0, machine_.wide(lane));
        machine_.run_wide(program, 0);
        step_wide(program, 0, x0, c);
      } else {
        for (int image = 0; image < images_.count; ++image) {
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
    for (int c = model_.patch; c < job_.width; c += LANES) {
      const int count = std::min(LANES, job_.width - c), x0 = c - model_.patch + 1;
      if (!wait(c + count)) return;
      const bool wide = count >= wide_from(model_);
      if (wide) {
        for (int lane = 0; lane < count; ++lane) write_ahead(program, 0, x0 + lane, machine_.wide(lane));
        machine_.run_wide(program, 0);
      }
      for (int lane = 0; lane < count; ++lane) {
        if (!wide) {
          write_ahead(program, 0, x0 + lane, machine_.narrow());
          machine_.run_narrow(program, 0, 0, -1);
        }
        step_narrow(program, 0, 0, x0 + lane, c + lane, wide ? lane : -1);
        advance(c + lane + 1);
      }
    }
  }

  uint8_t* pixel(int image, int row, int column) const {
    const int64_t n = images_.first + image;
    return job_.out + ((n * job_.height + row) * job_.width + column) * model_.channels;
  }

  // Everything the ahead part reads: pixels of the rows above, and the conditioning.
  void write_ahead(const Program& program, int image, int x0, Machine::Place to) {
    write_pixels(program, image, x0, 0, place_row_ * model_.patch, to);
    conditioning_.write(program, image, x0, to);
  }

  // The window's pixels with places from `begin` to before `end`.
  void write_pixels(const Program& program, int image, int x0, int begin, int end, Machine::Place to) const {
    const int m = model_.patch;
    for (size_t i = 0; i < program.pixels.size(); i += 2) {
      const int32_t place = program.pixels[i], row = program.pixels[i + 1];
      if (place < begin || place >= end) continue;
      const uint8_t* levels = pixel(image, row_ - place_row_ + place / m, x0 + place % m);
      for (int c = 0; c < model_.channels; ++c) to[row + c] = unit_[levels[c]];
    }
  }

  void step_wide(const Program& program, int t, int x0, int column) {
    const int first = place_row_ * model_.patch;
    for (int lane = 0; lane < images_.count; ++lane) {
      write_pixels(program, lane, x0, first, program.targets[t], machine_.wide(lane));
    }
    machine_.run_wide(program, 1 + t);
    for (int lane = 0; lane < images_.count; ++lane) {
      draw_pixel(lane, column, &machine_.wide(lane)[program.params[t]], LANES);
    }
  }

  void step_narrow(const Program& program, int t, int image, int x0, int column, int ahead) {
    write_pixels(program, image, x0, place_row_ * model_.patch, program.targets[t], machine_.narrow());
    machine_.run_narrow(program, 1 + t, image, ahead);
    draw_pixel(image, column, &machine_.narrow()[program.params[t]], 1);
  }

  void draw_pixel(int image, int column, const float* params, int stride) {
    const uint32_t counter[4] = {static_cast<uint32_t>(row_), static_cast<uint32_t>(column),
                                 job_.images[images_.first + image], 0};
    uint32_t words[4];
    philox4x32(job_.seed, counter, words);
    const int components = model_.parameters / parameters_per_component(model_.channels);
    draw(params, stride, model_.channels, components, words, job_.temperature, job_.map, pixel(image, row_, column));
  }

  // Makes the first `columns` pixels of this row visible to the row below.
  void advance(int columns) {
    std::atomic<int32_t>& drawn = shared_.drawn(group_, row_);
    const int32_t before = drawn.load(std::memory_order_relaxed);
    drawn.store(columns, std::memory_order_release);
    shared_.pixels.fetch_add(static_cast<int64_t>(columns - before) * images_.count, std::memory_order_relaxed);
  }

  // Until the row above has so many pixels; false if the drawing is to stop.
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
  const ImageJob& job_;
  Machine machine_;
  Conditioning conditioning_;
  float unit_[256];
  // The item in work.
  int group_ = 0, row_ = 0, place_row_ = 0;
  Group images_{0, 0};
};

// Runs `work` on so many threads; `poll` on this one, some twenty times a second, until all are done. What a thread
// throws stops the others (through `stop`) and is thrown again here.
template <typename Work, typename Poll>
void in_threads(int threads, std::atomic<bool>& stop, Work work, Poll poll) {
  std::mutex mutex;
  std::condition_variable finished;
  int running = threads;
  std::exception_ptr error;
  const auto body = [&] {
    try {
      work();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
      stop.store(true);
    }
    const std::lock_guard<std::mutex> lock(mutex);
    --running;
    finished.notify_one();
  };
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    try {
      pool.emplace_back(body);
    } catch (...) {  // no more threads to be had: go on with those there are, if any
      const std::lock_guard<std::mutex> lock(mutex);
      running -= threads - t;
      if (t == 0) error = std::current_exception();
      break;
    }
  }
  std::unique_lock<std::mutex> lock(mutex);
  while (!finished.wait_for(lock, std::chrono::milliseconds(50), [&] { return running == 0; })) {
    lock.unlock();
    poll();
    lock.lock();
  }
  lock.unlock();
  for (std::thread& thread : pool) thread.join();
  if (error) std::rethrow_exception(error);
  poll();
}

}  // namespace

void sample(const Model& model, const ImageJob& job, int threads, const std::function<bool(int64_t)>& report) {
  Shared shared(model, job, threads);
  int64_t reported = 0;
  in_threads(
      static_cast<int>(std::min<int64_t>(threads, shared.items())), shared.stop, [&] { Worker(shared).run(); },
      [&] {
        const int64_t now = shared.pixels.load(std::memory_order_relaxed);
        if (!shared.stop.load() && !report(now - reported)) shared.stop.store(true);
        reported = now;
      });
}

void evaluate(const Model& model, const Program& program, int64_t windows, const std::vector<const float*>& inputs,
              const float* z, bool narrow, int threads, float* params) {
  const int together = narrow ? 1 : LANES;
  const int64_t batches = (windows + together - 1) / together;
  std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  const auto work = [&] {
    Machine machine(model);
    for (int64_t batch; !stop.load() && (batch = next.fetch_add(1)) < batches;) {
      const int64_t first = batch * together;
      const int count = static_cast<int>(std::min<int64_t>(together, windows - first));
      for (int lane = 0; lane < count; ++lane) {
        const int64_t window = first + lane;
        const Machine::Place to = narrow ? machine.narrow() : machine.wide(lane);
        if (model.latent > 0) machine.set_latent(lane, 1, z + window * model.latent);
        const auto put = [&](int k, int32_t place, int32_t row) {
          const Input& input = model.inputs[k];
          const float* from = inputs[k] + (window * input.places + place) * input.channels;
          for (int c = 0; c < input.channels; ++c) to[row + c] = from[c];
        };
        for (size_t i = 0; i < program.pixels.size(); i += 2) put(0, program.pixels[i], program.pixels[i + 1]);
        for (size_t i = 0; i < program.conditioning.size(); i += 3) {
          put(1 + program.conditioning[i], program.conditioning[i + 1], program.conditioning[i + 2]);
        }
      }
      for (int part = 0; part <= program.steps(); ++part) {
        if (narrow) {
          machine.run_narrow(program, part, 0, -1);
        } else {
          machine.run_wide(program, part);
        }
      }
      const auto targets = static_cast<int64_t>(program.targets.size());
      for (int lane = 0; lane < count; ++lane) {
        const Machine::Place from = narrow ? machine.narrow() : machine.wide(lane);
        float* to = params + (first + lane) * targets * model.parameters;
        for (const int32_t row : program.params) {
          for (int p = 0; p < model.parameters; ++p) *to++ = from[row + p];
        }
      }
    }
  };
  in_threads(static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, batches))), stop, work, [] {});
}

}  // namespace spx
