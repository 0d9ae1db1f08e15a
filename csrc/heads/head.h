// The distribution of one pixel: which head, and how large. spxcore/heads.
#pragma once

#include "heads/logistics.h"
#include "heads/softmax.h"

namespace spx {

struct Head {
  bool softmax;        // else logistics
  int32_t channels;    // C
  int32_t components;  // K, of logistics
  int32_t levels;      // of a channel, up to 256
};

// P, numbers of a pixel.
SPX_HD static inline int parameters_of(const Head& head) {
  return head.softmax ? head.levels : parameters_per_component(head.channels) * head.components;
}

// Draws one pixel [C] from its parameters; the arguments as of draw_logistics and draw_softmax.
SPX_HD static inline void draw(const Head& head, const float* params, int stride, const uint32_t words[4],
                               float temperature, bool mode, uint8_t* pixel) {
  if (head.softmax) {
    pixel[0] = draw_softmax(params, stride, head.levels, words, temperature, mode);
  } else {
    draw_logistics(params, stride, head.channels, head.components, head.levels, words, temperature, mode, pixel);
  }
}

}  // namespace spx
