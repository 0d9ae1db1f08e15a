// What a network is told at the places of a window: coordinates, and feature maps sampled there. The one home of both.
//
// Python's twin, in torch, is spxcore/engines/torch_feeds.py. Samples are blended along y first, then along x.
#pragma once

#include "job.h"
#include "tables.h"

namespace spx {

// Fraction of a window's range at which place i of `count` along an axis lies (Akoury & Nguyen 2017, section 4.1).
SPX_HD static inline float place_fraction(int i, int count) {
  return count > 1 ? static_cast<float>(i) / static_cast<float>(count - 1) : 0.5f;
}

// a at fraction 0, b at 1.
SPX_HD static inline float blend(float a, float b, float fraction) { return a * (1.0f - fraction) + b * fraction; }

// Coordinate of place i of `count` along an axis, of a window that begins at pixel `first` and has `side` pixels.
SPX_HD static inline float place_coordinate(const float* axis, int first, int side, int i, int count) {
  return blend(axis[first], axis[first + side - 1], place_fraction(i, count));
}

// Where a coordinate in [-1, 1] falls between two of `count` samples, the outer ones at the ends of the range.
struct Between {
  int32_t first;
  int32_t next;  // from the first to the second: 1, or 0 where there is one sample only
  float fraction;
};
SPX_HD static inline Between between(float coordinate, int count) {
  const float last = static_cast<float>(count - 1);
  float at = (coordinate + 1.0f) / 2.0f * last;
  at = !(at > 0.0f) ? 0.0f : at > last ? last : at;  // a NaN is no index: it reads the first sample
  int first = static_cast<int>(at);
  const int most = count > 1 ? count - 2 : 0;
  first = first < most ? first : most;
  return {first, count > 1 ? 1 : 0, at - static_cast<float>(first)};
}

// First number of map j of image n (from 0).
SPX_HD static inline const float* map_of(const Job& job, int n, int j) {
  const int64_t image = job.map_images > 1 ? n : 0;
  return job.maps + (image * job.map_count + j) * job.map_height * job.map_width;
}

// Everything that image n's network is told at one place of the window with origin (y0, x0): y, x, extra, maps.
//
// side    of the window, in pixels
// input   places along the axes
// place   y * input.width + x
// to      out, 2 + extra_count + map_count numbers
SPX_HD static inline void tell(const Job& job, int n, int y0, int x0, int side, const Input& input, int place,
                               float* to) {
  const float y = place_coordinate(job.y_axis, y0, side, place / input.width, input.height);
  const float x = place_coordinate(job.x_axis, x0, side, place % input.width, input.width);
  *to++ = y, *to++ = x;
  for (int i = 0; i < job.extra_count; ++i) *to++ = job.extra[i];
  if (job.map_count == 0) return;
  const Between at_y = between(y, job.map_height), at_x = between(x, job.map_width);
  const int64_t below = static_cast<int64_t>(at_y.next) * job.map_width;
  for (int j = 0; j < job.map_count; ++j) {
    const float* map = map_of(job, n, j) + static_cast<int64_t>(at_y.first) * job.map_width + at_x.first;
    const float left = blend(map[0], map[below], at_y.fraction);
    const float right = blend(map[at_x.next], map[below + at_x.next], at_y.fraction);
    *to++ = blend(left, right, at_x.fraction);
  }
}

}  // namespace spx
