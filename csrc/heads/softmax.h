// The softmax over levels of PixelRNN and Gated PixelCNN (van den Oord et al. 2016): spxcore/heads/softmax.py.
#pragma once

#include "heads/quantile.h"
#include "random.h"

namespace spx {

// Draws one pixel of one channel.
//
// params       the logit of level k is params[k * stride]
// levels       2 to 256
// words        the first draws the level, by `quantile` of logits / temperature
// mode         the most probable level, the first of several that are equal; a NaN counts as the largest
SPX_HD static inline uint8_t draw_softmax(const float* params, int stride, int levels, const uint32_t words[4],
                                          float temperature, bool mode) {
  if (!mode) return static_cast<uint8_t>(quantile(params, stride, levels, temperature, uniform(words[0])));
  int best = 0;
  for (int k = 0; k < levels; ++k) {
    const float logit = params[k * stride];
    if (logit != logit) return static_cast<uint8_t>(k);
    if (logit > params[best * stride]) best = k;
  }
  return static_cast<uint8_t>(best);
}

}  // namespace spx
