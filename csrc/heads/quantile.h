// The one inverse CDF of categorical distributions, mixture components and softmax levels alike:
// spxcore/heads/sampling.py.
#pragma once

#include "portable.h"

namespace spx {

// The index at the quantile u in (0, 1) of the softmax of logits / temperature.
//
// Tie rule, the only one: the first index whose running weight is strictly greater than u times the whole; the last one
// if there is none. Logit k is logits[k * stride].
SPX_HD static inline int quantile(const float* logits, int stride, int count, float temperature, float u) {
  float top = logits[0] / temperature;
  for (int k = 1; k < count; ++k) {
    const float logit = logits[k * stride] / temperature;
    if (logit > top) top = logit;
  }
  // The exponentials are computed twice rather than kept: an array indexed at run time would live in a GPU thread's
  // memory, and the same function on the same number gives the same bits.
  float total = 0.0f;
  for (int k = 0; k < count; ++k) total += expf(logits[k * stride] / temperature - top);
  const float threshold = u * total;
  float running = 0.0f;
  for (int k = 0; k < count - 1; ++k) {
    running += expf(logits[k * stride] / temperature - top);
    if (running > threshold) return k;
  }
  return count - 1;
}

}  // namespace spx
