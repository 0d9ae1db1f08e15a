// Drawing images, as the blocks of a persistent kernel do it: a block takes a row, follows the row above, and takes the
// next row.
//
// Rows are taken in order from one counter and wait for earlier ones only. So however few blocks are resident, the
// first row that is not finished can always go on.
#pragma once

#include "cuda/products.h"
#include "draw.h"

namespace spx::cuda {

// Images to draw; spxcore.engines.Job with what is derived from it.
struct Job {
  int32_t height, width, images;  // H, W, N
  uint64_t seed;
  const uint32_t* numbers;  // [N] image numbers
  const float* latent;      // [N][L] U z
  const float* maps;        // [N][M][map_height][map_width], or null
  int32_t map_height, map_width;
  const float* y_axis;  // [H] coordinates of the rows
  const float* x_axis;  // [W]
  float scale;          // the scale input
  float temperature;
  bool map;
  uint8_t* out;  // [N][H][W][C]
};

// What the blocks share, and the host.
struct Shared {
  Counter* next;     // rows taken
  Flag* drawn;       // [N][H], pixels drawn of each row
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

// Fractions of a window's range at which the places of a resolution lie (paper, section 4.1;
// spxcore.coords.place_axis).
SPX_DEVICE float place_step(int place, int places) {
  return places > 1 ? static_cast<float>(place) / static_cast<float>(places - 1) : 0.5f;
}

// Where a coordinate in [-1, 1] falls between two of `count` samples, the outer ones at the ends of the range.
struct Between {
  int first;
  float fraction;
};
SPX_DEVICE Between between(float coordinate, int count) {
  const float last = static_cast<float>(count - 1);
  float at = (coordinate + 1.0f) / 2.0f * last;
  at = at < 0.0f ? 0.0f : at > last ? last : at;
  int first = static_cast<int>(at);
  const int most = count > 1 ? count - 2 : 0;
  first = first < most ? first : most;
  return {first, at - static_cast<float>(first)};
}

// What the network is told at one place of the window of image n with origin (y0, x0): y, x, scale, maps
// (spxcore.network.place_inputs).
SPX_DEVICE void write_conditioning(const Network& net, const Job& job, int n, int y0, int x0, const Conditioning& what,
                                   float* to) {
  const int m = net.patch, side = m >> what.resolution;
  const float down = place_step(what.place / side, side), across = place_step(what.place % side, side);
  const float y = job.y_axis[y0] * (1.0f - down) + job.y_axis[y0 + m - 1] * down;
  const float x = job.x_axis[x0] * (1.0f - across) + job.x_axis[x0 + m - 1] * across;
  to[0] = y, to[1] = x;
  if (net.place_inputs == 2) return;
  to[2] = job.scale;
  const Between at_y = between(y, job.map_height), at_x = between(x, job.map_width);
  const int below = job.map_height > 1 ? job.map_width : 0, right = job.map_width > 1 ? 1 : 0;
  const int maps = net.place_inputs - 3;
  const float* map = job.maps + static_cast<int64_t>(n) * maps * job.map_height * job.map_width +
                     static_cast<int64_t>(at_y.first) * job.map_width + at_x.first;
  for (int j = 0; j < maps; ++j, map += static_cast<int64_t>(job.map_height) * job.map_width) {
    const float left_side = map[0] * (1.0f - at_y.fraction) + map[below] * at_y.fraction;
    const float right_side = map[right] * (1.0f - at_y.fraction) + map[below + right] * at_y.fraction;
    to[3 + j] = left_side * (1.0f - at_x.fraction) + right_side * at_x.fraction;
  }
}

// Draws rows of images until there are none.
template <Precision P>
class Worker {
 public:
  // recent: [m][C] in the block's shared memory. windows: as many as the block runs ahead.
  SPX_DEVICE Worker(const Block& block, const Network& net, const Job& job, const Shared& shared, Scratch* scratch,
                    float* recent, const Windows& windows)
      : block_(block), net_(net), job_(job), shared_(shared), scratch_(scratch), recent_(recent), windows_(windows) {}

  SPX_DEVICE void run() {
    const int64_t items = static_cast<int64_t>(job_.images) * job_.height;
    while (true) {
      block_.sync();
      if (block_.leader()) scratch_->item = peek(shared_.stop) ? items : static_cast<int64_t>(take(shared_.next));
      block_.sync();
      const int64_t item = scratch_->item;
      if (item >= items) return;
      // As many images as blocks go down their rows together: then no row waits, and few are in work at a time.
      const int64_t at_once = block_.blocks();
      const int64_t group = item / (at_once * job_.height), inside = item - group * at_once * job_.height;
      const int64_t left = job_.images - group * at_once, together = left < at_once ? left : at_once;
      image_ = static_cast<int>(group * at_once + inside % together);
      row_ = static_cast<int>(inside / together);
      if (!draw_row()) return;
    }
  }

 private:
  // False if the drawing is to stop; all of the block are told the same.
  SPX_DEVICE bool draw_row() {
    const int m = net_.patch;
    place_row_ = row_ < m - 1 ? row_ : m - 1;
    windows_.latent = job_.latent + static_cast<int64_t>(image_) * net_.latents;
    if (!wait(m)) return false;
    run_ahead(net_.programs[2 * place_row_ + 1], 0, 1);
    for (int t = 0; t < m; ++t) step(net_.programs[2 * place_row_ + 1], t, 0, 0, t);
    const Program program = net_.programs[2 * place_row_];
    const int most = windows_.count;
    for (int c = m; c < job_.width; c += most) {
      const int count = job_.width - c < most ? job_.width - c : most;
      if (!wait(c + count)) return false;
      run_ahead(program, c - m + 1, count);
      for (int w = 0; w < count; ++w) step(program, 0, w, c - m + 1 + w, c + w);
    }
    return true;
  }

  // Until the row above has so many pixels, and everybody has left the windows of before.
  SPX_DEVICE bool wait(int columns) {
    block_.sync();
    if (block_.leader()) {
      bool go = true;
      if (row_ > 0) {
        const Flag* above = shared_.drawn + static_cast<int64_t>(image_) * job_.height + row_ - 1;
        for (int64_t turn = 1; go && acquire(above) < columns; ++turn) {
          pause();
          if (turn == shared_.patience) raise(shared_.stuck), raise(shared_.stop);
          if (turn % 256 == 0) go = !peek(shared_.stop);
        }
      }
      // ... and asked.
      if (columns % 64 < windows_.count) go = go && !peek(shared_.stop);
      scratch_->go = go;
    }
    block_.sync();
    return scratch_->go != 0;
  }

  SPX_DEVICE Windows first_windows(int first, int count) const {
    Windows some = windows_;
    some.arena += static_cast<int64_t>(first) * some.stride;
    some.count = count;
    some.latent_stride = 0;
    return some;
  }

  // Everything that the windows from column x0 on need of rows above, and what can be computed from it.
  SPX_DEVICE void run_ahead(const Program& program, int x0, int count) {
    const int y0 = row_ - place_row_, m = net_.patch, channels = net_.channels;
    const int pixels = program.pixel_current - program.pixel;
    for (int i = block_.worker(); i < pixels * count; i += block_.workers()) {
      const int w = i / pixels;
      const Pixel pixel = net_.pixels[program.pixel + i - w * pixels];
      const uint8_t* levels = pixel_at(y0 + pixel.place / m, x0 + w + pixel.place % m);
      float* to = windows_.arena + static_cast<int64_t>(w) * windows_.stride + pixel.word;
      for (int c = 0; c < channels; ++c) to[c] = to_unit(levels[c]);
    }
    const int places = net_.place_inputs ? program.conditioning_end - program.conditioning : 0;
    for (int i = block_.worker(); i < places * count; i += block_.workers()) {
      const int w = i / places;
      const Conditioning what = net_.conditioning[program.conditioning + i - w * places];
      float* to = windows_.arena + static_cast<int64_t>(w) * windows_.stride + what.word;
      write_conditioning(net_, job_, image_, y0, x0 + w, what, to);
    }
    run_part<P>(block_, net_, program.part, first_windows(0, count));
  }

  // Draws target t of window w, whose first column is x0: the pixel at `column`.
  SPX_DEVICE void step(const Program& program, int t, int w, int x0, int column) {
    const int m = net_.patch, channels = net_.channels;
    float* arena = windows_.arena + static_cast<int64_t>(w) * windows_.stride;
    for (int i = program.pixel_current + block_.worker(); i < program.pixel_end; i += block_.workers()) {
      const Pixel pixel = net_.pixels[i];
      const int x = x0 + pixel.place % m;
      if (x >= column) continue;
      for (int c = 0; c < channels; ++c) arena[pixel.word + c] = recent_[x % m * channels + c];
    }
    run_part<STEP_PRECISION<P>>(block_, net_, program.part + 1 + t, first_windows(w, 1));
    block_.sync();
    if (block_.leader()) draw_pixel(arena + net_.params[program.params + t], column);
    block_.sync();
  }

  SPX_DEVICE void draw_pixel(const float* params, int column) {
    const int channels = net_.channels;
    const uint32_t counter[4] = {static_cast<uint32_t>(row_), static_cast<uint32_t>(column), job_.numbers[image_], 0};
    uint32_t words[4];
    philox4x32(job_.seed, counter, words);
    uint8_t levels[3];
    draw(params, 1, channels, net_.parameters / parameters_per_component(channels), words, job_.temperature, job_.map,
         levels);
    uint8_t* to = pixel_at(row_, column);
    for (int c = 0; c < channels; ++c) {
      to[c] = levels[c];
      recent_[column % net_.patch * channels + c] = to_unit(levels[c]);
    }
    release(shared_.drawn + static_cast<int64_t>(image_) * job_.height + row_, column + 1);
    ++pixels_;
    // The host's memory is far away: it is told once in a while.
    if (column % 64 == 63 || column == job_.width - 1) post(shared_.pixels + block_.number(), pixels_);
  }

  SPX_DEVICE uint8_t* pixel_at(int row, int column) const {
    return job_.out + ((static_cast<int64_t>(image_) * job_.height + row) * job_.width + column) * net_.channels;
  }

  const Block& block_;
  const Network& net_;
  const Job& job_;
  const Shared& shared_;
  Scratch* scratch_;
  float* recent_;  // the current row's last m pixels in [-1, 1], column c at c % m
  Windows windows_;
  // The row in work.
  int image_ = 0, row_ = 0, place_row_ = 0;
  unsigned long long pixels_ = 0;  // the leader's count
};

// Windows whose pixels are known, for tests and likelihoods.
struct Known {
  int32_t program;
  int64_t windows;               // N
  const float* pixels;           // [N][m * m][C] in [-1, 1]
  const float* conditioning[3];  // [N][places][D] at each resolution, or null
  const float* latent;           // [N][L] U z
  float* params;                 // [N][T][P], out
};

template <Precision P>
SPX_DEVICE void evaluate(const Block& block, const Network& net, const Known& known, Windows windows) {
  const Program program = net.programs[known.program];
  const int m = net.patch, most = windows.count;
  for (int64_t first = static_cast<int64_t>(block.number()) * most; first < known.windows;
       first += static_cast<int64_t>(block.blocks()) * most) {
    windows.count = static_cast<int>(known.windows - first < most ? known.windows - first : most);
    windows.latent = known.latent + first * net.latents;
    windows.latent_stride = net.latents;
    block.sync();
    for (int w = 0; w < windows.count; ++w) {
      float* arena = windows.arena + static_cast<int64_t>(w) * windows.stride;
      for (int i = program.pixel + block.worker(); i < program.pixel_end; i += block.workers()) {
        const float* from = known.pixels + ((first + w) * m * m + net.pixels[i].place) * net.channels;
        for (int c = 0; c < net.channels; ++c) arena[net.pixels[i].word + c] = from[c];
      }
      const int places = net.place_inputs ? program.conditioning_end - program.conditioning : 0;
      for (int i = block.worker(); i < places; i += block.workers()) {
        const Conditioning what = net.conditioning[program.conditioning + i];
        const int64_t side = m >> what.resolution;
        const float* from =
            known.conditioning[what.resolution] + ((first + w) * side * side + what.place) * net.place_inputs;
        for (int d = 0; d < net.place_inputs; ++d) arena[what.word + d] = from[d];
      }
    }
    run_part<P>(block, net, program.part, windows);
    for (int t = 0; t < program.steps; ++t) {
      run_part<STEP_PRECISION<P>>(block, net, program.part + 1 + t, windows);
    }
    block.sync();
    for (int w = 0; w < windows.count; ++w) {
      const float* arena = windows.arena + static_cast<int64_t>(w) * windows.stride;
      for (int i = block.worker(); i < program.steps * net.parameters; i += block.workers()) {
        const int t = i / net.parameters, p = i % net.parameters;
        known.params[(first + w) * program.steps * net.parameters + i] = arena[net.params[program.params + t] + p];
      }
    }
  }
}

}  // namespace spx::cuda
