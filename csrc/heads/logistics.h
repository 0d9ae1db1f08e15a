// The mixture of discretised logistics of PixelCNN++ (Salimans et al. 2017, sections 2.1 and 2.2):
// spxcore/heads/logistics.py, name for name.
#pragma once

#include "heads/quantile.h"
#include "random.h"

namespace spx {

constexpr float MIN_LOG_SCALE = -7.0f;

// Numbers of one component: logit, C means, C log-scales and, for RGB, 3 coefficients; 0 for another count of channels.
SPX_HD static inline int parameters_per_component(int channels) { return channels == 1 ? 3 : channels == 3 ? 10 : 0; }

// The nearest of the levels 0 ... last, halves upwards; the end bins absorb the tails. NaN gives 0: casting it would be
// undefined.
SPX_HD static inline uint8_t quantise(float level, float last) {
  const float nearest = floorf(level + 0.5f);
  if (!(nearest > 0.0f)) return 0;
  return static_cast<uint8_t>(nearest < last ? nearest : last);
}

// Draws one pixel.
//
// params       parameter p is params[p * stride], in this order, K = components:
//              logits [K], means [C][K], log_scales [C][K], and for C = 3 coeffs [3][K] before tanh
// channels     C, 1 or 3
// levels       of a channel, 2 to 256
// words [4]    the pixel's random words: 0 draws the component, 1 + c draws channel c
// temperature  scales the logistic's scale, > 0
// mode         no noise: the drawn component's mean
// pixel [C]    out
//
// For C = 3 a channel's mean depends on the *quantised* earlier channels, as in the likelihood.
SPX_HD static inline void draw_logistics(const float* params, int stride, int channels, int components, int levels,
                                         const uint32_t words[4], float temperature, bool mode, uint8_t* pixel) {
  const int k = quantile(params, stride, components, 1.0f, uniform(words[0]));
  const int next = components * stride;  // from one channel's entry, or one coefficient, to the next one's
  const float* means = params + next + k * stride;
  const float* log_scales = means + channels * next;
  const float* coeffs = log_scales + channels * next;
  const float last = static_cast<float>(levels - 1), half = last / 2.0f;

  float previous[2] = {0.0f, 0.0f};
  for (int c = 0; c < channels; ++c) {
    float x = means[c * next];
    // Green sees red; blue sees red and green.
    if (c == 1) x += tanhf(coeffs[0]) * previous[0];
    if (c == 2) {
      x += tanhf(coeffs[next]) * previous[0];
      x += tanhf(coeffs[2 * next]) * previous[1];
    }
    if (!mode) {
      // Not fmaxf: it would turn a NaN into a scale.
      const float log_scale = log_scales[c * next] < MIN_LOG_SCALE ? MIN_LOG_SCALE : log_scales[c * next];
      const float u = uniform(words[1 + c]);
      x += temperature * expf(log_scale) * (logf(u) - log1pf(-u));
    }
    pixel[c] = quantise((x + 1.0f) * half, last);
    if (c < 2) previous[c] = static_cast<float>(pixel[c]) / half - 1.0f;
  }
}

}  // namespace spx
