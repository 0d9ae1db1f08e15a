// Instructions by which the lanes of a warp see each other's numbers.
#include <algorithm>

#include "operations.h"

namespace ptxemu {

void sync_warp(Warp& warp, const Instruction&, u32 mask) { meet(warp, mask); }

// shfl.sync d|p, a, b, c: the segments and limits are packed in c.
void shuffle(Warp& warp, const Instruction& now, u32 mask) {
  const u32* a = warp.in<u32>(now.in[0]);
  u32 values[LANES], in_range = 0;
  for (int lane : Lanes(mask)) {
    const int b = static_cast<int>(warp.get(now.in[1], lane) & 31);
    const u32 c = static_cast<u32>(warp.get(now.in[2], lane));
    const int limit = static_cast<int>(c & 31), segment = static_cast<int>(c >> 8 & 31);
    const int least = lane & segment, most = least | (limit & ~segment);
    int from = least | (b & ~segment);
    if (now.mode == 'u') from = lane - b;
    if (now.mode == 'd') from = lane + b;
    if (now.mode == 'b') from = lane ^ b;
    const bool inside = now.mode == 'u' ? from >= most : from <= most;
    if (!inside) from = lane;
    if (!(mask >> from & 1))
      warp.launch->find("shfl.sync from a lane that takes no part", warp, lane, text("lane %d", from));
    values[lane] = a[from], in_range |= static_cast<u32>(inside) << lane;
  }
  for (int lane : Lanes(mask)) {
    warp.put(now.out[0], lane, values[lane]);
    if (now.out.size() > 1) warp.put(now.out[1], lane, in_range >> lane & 1);
  }
  warp.defined(now.out, mask);
}

void reduce(Warp& warp, const Instruction& now, u32 mask) {
  bool first = true;
  s64 result = 0;
  for (int lane : Lanes(mask)) {
    const s64 value = static_cast<s64>(sign_extended(warp.get(now.in[0], lane), 4, now.sign));
    if (std::exchange(first, false)) {
      result = value;
      continue;
    }
    switch (now.mode) {
      case 'a':
        result += value;
        break;
      case 'm':
        result = std::min(result, value);
        break;
      case 'M':
        result = std::max(result, value);
        break;
      case '&':
        result &= value;
        break;
      case '|':
        result |= value;
        break;
      default:
        result ^= value;
    }
  }
  for (int lane : Lanes(mask)) warp.put(now.out[0], lane, static_cast<u32>(result));
  warp.defined(now.out, mask);
}

void vote(Warp& warp, const Instruction& now, u32 mask) {
  u32 said = 0;
  for (int lane : Lanes(mask)) said |= static_cast<u32>(warp.get(now.in[0], lane)) << lane;
  u32 result = said;
  if (now.mode == 'l') result = said == mask;
  if (now.mode == 'y') result = said != 0;
  if (now.mode == 'u') result = said == 0 || said == mask;
  for (int lane : Lanes(mask)) warp.put(now.out[0], lane, result);
  warp.defined(now.out, mask);
}

}  // namespace ptxemu
