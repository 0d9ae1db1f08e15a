// Drawing images, as the blocks of a persistent kernel do it: a block takes a row, follows the row above, and takes the
// next row.
//
// Rows are taken in order from one counter and wait for earlier ones only. So however few blocks are resident, the
// first row that is not finished can always go on.
#pragma once

#include "cuda/products.h"
#include "places.h"
#include "random.h"

namespace spx::cuda {

// What the blocks share, and the host.
struct Shared {
  Counter* next;     // rows taken
  Flag* drawn;       // [N][H], pixels of each row that are drawn, or given, as those of all rows above up to there are
  Flag* stop;        // raised by the host, or with `stuck`
  Flag* stuck;       // raised by a block that has waited for too long
  Counter* pixels;   // [blocks], drawn by each block
  int32_t patience;  // turns of `pause` after which a wait is given up
};

// A block's own memory.
struct Scratch {
  int64_t item;  // the row in work, as the leader took it
  int32_t go;    // the leader's word that the drawing goes on
};

// Draws rows of images until there are none. S: where the arenas are.
template <Precision P, Space S>
class Worker {
 public:
  // job: with U z as its code, [N][L]. recent: [m][C e] in the block's shared memory. windows: as many as the block
  // runs ahead.
  SPX_DEVICE Worker(const Block& block, const NetView& net, const Job& job, const Shared& shared, Scratch* scratch,
                    float* recent, const Windows& windows)
      : block_(block), net_(net), job_(job), shared_(shared), scratch_(scratch), recent_(recent), windows_(windows) {}

  SPX_DEVICE void run() {
    const int64_t items = static_cast<int64_t>(job_.count) * job_.height;
    while (true) {
      block_.sync();
      if (block_.leader()) scratch_->item = peek(shared_.stop) ? items : static_cast<int64_t>(take(shared_.next));
      block_.sync();
      const int64_t item = scratch_->item;
      if (item >= items) return;
      // As many images as blocks go down their rows together: then no row waits, and few are in work at a time.
      const int64_t at_once = block_.blocks();
      const int64_t group = item / (at_once * job_.height), inside = item - group * at_once * job_.height;
      const int64_t left = job_.count - group * at_once, together = left < at_once ? left : at_once;
      image_ = static_cast<int>(group * at_once + inside % together);
      row_ = static_cast<int>(inside / together);
      if (!draw_row()) return;
    }
  }

 private:
  // False if the drawing is to stop; all of the block are told the same.
  SPX_DEVICE bool draw_row() {
    const int m = net_.side;
    place_row_ = row_ < m - 1 ? row_ : m - 1;
    windows_.code = job_.code + static_cast<int64_t>(image_) * net_.code;
    if (!first_window()) return false;
    const ProgramRow program = net_.programs[2 * place_row_];
    for (int c = m; c < job_.width;) {
      const bool work = wanted(c);
      const int most = work ? windows_.count : MOST_KEPT;
      int end = c + 1;
      while (end < job_.width && end - c < most && wanted(end) == work) ++end;
      if (!wait(c, end)) return false;
      if (work) {
        run_ahead(program, c - m + 1, end - c);
        for (int w = 0; c + w < end; ++w) step(program, 0, w, c - m + 1 + w, c + w);
      } else {
        keep(c, end);
      }
      c = end;
    }
    return true;
  }

  // The row's first m pixels share the window at column 0. A step leaves numbers for the steps after it, so they run up
  // to the last one that is wanted.
  SPX_DEVICE bool first_window() {
    const int m = net_.side;
    if (!wait(0, m)) return false;
    int steps = m;
    while (steps > 0 && !wanted(steps - 1)) --steps;
    const ProgramRow program = net_.programs[2 * place_row_ + 1];
    if (steps > 0) run_ahead(program, 0, 1);
    for (int t = 0; t < steps; ++t) step(program, t, 0, 0, t);
    if (steps < m) keep(steps, m);
    return true;
  }

  SPX_DEVICE bool given(int column) const { return is_given(job_, image_, row_, column); }

  // Whether a pixel's parameters are needed.
  SPX_DEVICE bool wanted(int column) const { return job_.params || !given(column); }

  // Before the row's pixels from column `begin` to before `end`: until the row above has as many, and everybody has
  // left the windows of before.
  SPX_DEVICE bool wait(int begin, int end) {
    block_.sync();
    if (block_.leader()) {
      bool go = true;
      if (row_ > 0) {
        const Flag* above = shared_.drawn + static_cast<int64_t>(image_) * job_.height + row_ - 1;
        for (int64_t turn = 1; go && acquire(above) < end; ++turn) {
          pause();
          if (turn == shared_.patience) raise(shared_.stuck), raise(shared_.stop);
          if (turn % 256 == 0) go = !peek(shared_.stop);
        }
      }
      // It is asked once in a while.
      if (begin / 64 != end / 64) go = go && !peek(shared_.stop);
      scratch_->go = go;
    }
    block_.sync();
    return scratch_->go != 0;
  }

  SPX_DEVICE Windows first_windows(int first, int count) const {
    Windows some = windows_;
    some.arena += static_cast<int64_t>(first) * some.stride;
    some.count = count;
    some.code_stride = 0;
    return some;
  }

  // Everything that the windows from column x0 on need of rows above, and what can be computed from it.
  SPX_DEVICE void run_ahead(const ProgramRow& program, int x0, int count) {
    const int y0 = row_ - place_row_, m = net_.side;
    const int pixels = program.pixel_current - program.pixel;
    for (int i = block_.worker(); i < pixels * count; i += block_.workers()) {
      const int w = i / pixels;
      const Pixel pixel = net_.pixels[program.pixel + i - w * pixels];
      float* to = windows_.arena + static_cast<int64_t>(w) * windows_.stride + pixel.row;
      write_pixel(y0 + pixel.place / m, x0 + w + pixel.place % m, to);
    }
    const int places = program.told_end - program.told;
    for (int i = block_.worker(); i < places * count; i += block_.workers()) {
      const int w = i / places;
      const Told told = net_.told[program.told + i - w * places];
      float* to = windows_.arena + static_cast<int64_t>(w) * windows_.stride + told.row;
      tell(job_, image_, y0, x0 + w, m, net_.inputs[1 + told.input], told.place, to);
    }
    run_part<P, S>(block_, net_, program.part, first_windows(0, count));
  }

  // Draws target t of window w, whose first column is x0: the pixel at `column`.
  SPX_DEVICE void step(const ProgramRow& program, int t, int w, int x0, int column) {
    const int m = net_.side;
    float* arena = windows_.arena + static_cast<int64_t>(w) * windows_.stride;
    for (int i = program.pixel_current + block_.worker(); i < program.pixel_end; i += block_.workers()) {
      const Pixel pixel = net_.pixels[i];
      const int x = x0 + pixel.place % m;
      if (x >= column) continue;
      for (int c = 0; c < net_.pixel; ++c) arena[pixel.row + c] = recent_[x % m * net_.pixel + c];
    }
    run_part<STEP_PRECISION<P>, S>(block_, net_, program.part + 1 + t, first_windows(w, 1));
    block_.sync();
    const float* params = arena + net_.params[program.params + t];
    if (job_.params) {
      float* to = job_.params + pixel_number(row_, column) * net_.parameters;
      for (int p = block_.worker(); p < net_.parameters; p += block_.workers()) to[p] = params[p];
    }
    if (block_.leader()) {
      if (!given(column)) draw_pixel(params, column);
      write_pixel(row_, column, recent_ + column % m * net_.pixel);
      advance(column, column + 1);
    }
    block_.sync();
  }

  SPX_DEVICE void draw_pixel(const float* params, int column) {
    uint32_t words[4];
    pixel_words(job_.seed, row_, column, job_.images[image_], job_.draw, words);
    uint8_t* to = job_.pixels + pixel_number(row_, column) * job_.head.channels;
    draw(job_.head, params, 1, words, job_.temperature, job_.mode, to);
  }

  // Given pixels from column `begin` to before `end`, which nobody asks the parameters of.
  SPX_DEVICE void keep(int begin, int end) {
    const int m = net_.side;
    for (int c = (end - begin > m ? end - m : begin) + block_.worker(); c < end; c += block_.workers()) {
      write_pixel(row_, c, recent_ + c % m * net_.pixel);
    }
    if (block_.leader()) advance(begin, end);
  }

  // By the leader: makes the row's pixels from `begin` to before `end` visible to the row below.
  SPX_DEVICE void advance(int begin, int end) {
    release(shared_.drawn + static_cast<int64_t>(image_) * job_.height + row_, end);
    pixels_ += end - begin;
    // The host's memory is far away: it is told once in a while.
    if (begin / 64 != end / 64 || end == job_.width) post(shared_.pixels + block_.number(), pixels_);
  }

  // What the network sees of a pixel.
  SPX_DEVICE void write_pixel(int row, int column, float* to) const {
    const uint8_t* levels = job_.pixels + pixel_number(row, column) * job_.head.channels;
    const int e = job_.embedding, last = job_.head.levels - 1;
    for (int c = 0; c < net_.pixel; ++c) {
      const int level = levels[c / e];  // one beyond the head's, which only a faulty canvas has, reads the last one's
      to[c] = job_.table[(level < last ? level : last) * e + c % e];
    }
  }

  SPX_DEVICE int64_t pixel_number(int row, int column) const {
    return (static_cast<int64_t>(image_) * job_.height + row) * job_.width + column;
  }

  static constexpr int MOST_KEPT = 64;  // given pixels that are waited for together

  const Block& block_;
  const NetView& net_;
  const Job& job_;
  const Shared& shared_;
  Scratch* scratch_;
  float* recent_;  // what the network sees of the current row's last m pixels, column c at c % m
  Windows windows_;
  // The row in work.
  int image_ = 0, row_ = 0, place_row_ = 0;
  unsigned long long pixels_ = 0;  // the leader's count
};

}  // namespace spx::cuda
