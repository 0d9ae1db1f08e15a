// cvt, and mov that packs and unpacks.
#include <cmath>
#include <limits>
#include <tuple>

#include "lanewise.h"

namespace ptxemu {
namespace {

template <class T>
u64 saturated(double x) {
  using Limits = std::numeric_limits<T>;
  if (std::isnan(x)) return 0;
  if (x <= static_cast<double>(Limits::min())) return static_cast<u64>(Limits::min());
  if (x >= static_cast<double>(Limits::max())) return static_cast<u64>(Limits::max());
  return static_cast<u64>(static_cast<T>(x));
}
u64 whole(double x, bool sign, int bytes) {
  switch (bytes) {
    case 1:
      return sign ? saturated<s8>(x) : saturated<u8>(x);
    case 2:
      return sign ? saturated<s16>(x) : saturated<u16>(x);
    case 4:
      return sign ? saturated<s32>(x) : saturated<u32>(x);
    default:
      return sign ? saturated<s64>(x) : saturated<u64>(x);
  }
}
u64 cut(u64 value, int bytes) { return bytes == 8 ? value : value & ((1ull << 8 * bytes) - 1); }

u64 whole_to_whole(const Conversion& how, u64 x) {
  if (!how.saturate) return sign_extended(cut(x, how.to_bytes), how.to_bytes, how.to);
  const s64 with_sign = static_cast<s64>(x);
  if (how.to == 's') {
    const s64 most = static_cast<s64>(~0ull >> (65 - 8 * how.to_bytes));
    if (how.from != 's') return std::min(x, static_cast<u64>(most));
    return static_cast<u64>(std::min(std::max(with_sign, -most - 1), most));
  }
  if (how.from == 's' && with_sign < 0) return 0;
  return std::min(x, cut(~0ull, how.to_bytes));
}
double flushed(double x) { return std::fabs(x) < 0x1p-126 ? std::copysign(0.0, x) : x; }

u64 converted(const Conversion& how, u64 value) {
  if (how.from != 'f') {
    const u64 x = how.from == 's' ? sign_extended(value, how.from_bytes, 's') : cut(value, how.from_bytes);
    if (how.to != 'f') return whole_to_whole(how, x);
    const bool sign = how.from == 's';
    if (how.to_bytes == 4)
      return std::bit_cast<u32>(sign ? static_cast<float>(static_cast<s64>(x)) : static_cast<float>(x));
    return std::bit_cast<u64>(sign ? static_cast<double>(static_cast<s64>(x)) : static_cast<double>(x));
  }
  double x = how.from_bytes == 8 ? std::bit_cast<double>(value) : std::bit_cast<float>(static_cast<u32>(value));
  if (how.flush && how.from_bytes == 4) x = flushed(x);
  switch (how.round) {
    case 'z':
      x = std::trunc(x);
      break;
    case 'm':
      x = std::floor(x);
      break;
    case 'p':
      x = std::ceil(x);
      break;
    case 'i':
      x = std::nearbyint(x);
  }
  if (how.to != 'f') return whole(x, how.to == 's', how.to_bytes);
  if (how.saturate) x = std::isnan(x) || x < 0 ? 0.0 : x > 1 ? 1.0 : x;
  if (how.to_bytes == 8) return std::bit_cast<u64>(x);
  const float y = static_cast<float>(x);
  return std::bit_cast<u32>(how.flush ? static_cast<float>(flushed(y)) : y);
}

u32 bf16(float x) {
  const u32 bits = std::bit_cast<u32>(x), low = bits & 0xffff, high = bits >> 16;
  if (std::isnan(x)) return 0x7fff;
  return high + (low > 0x8000 || (low == 0x8000 && high & 1));  // to the nearest, halves to even
}
u32 tf32(float x) {
  const u32 bits = std::bit_cast<u32>(x);
  if (!std::isfinite(x)) return bits & 0xffffe000u;
  return (bits & 0x80000000u) | (((bits & 0x7fffffffu) + 0x1000) & 0xffffe000u);  // to the nearest, halves away from 0
}

}  // namespace

void convert(Warp& warp, const Instruction& now, u32 mask) {
  for (int lane : Lanes(mask)) warp.put(now.out[0], lane, converted(now.conversion, warp.get(now.in[0], lane)));
  warp.defined(now.out[0], mask);
}
void convert_to_tf32(Warp& warp, const Instruction& now, u32 mask) { lanewise<u32, tf32, float>(warp, now, mask); }
void pack_bf16(Warp& warp, const Instruction& now, u32 mask) {
  lanewise<u32, [](float a, float b) { return bf16(a) << 16 | bf16(b); }, float, float>(warp, now, mask);
}
void pack_unpack(Warp& warp, const Instruction& now, u32 mask) {
  const int each = static_cast<int>(8 * now.bytes / now.out.size());  // bits of an output
  for (int lane : Lanes(mask)) {
    u64 value = 0;
    int at = 0;
    for (const Operand& o : now.in) value |= warp.get(o, lane) << at, at += 8 * o.size;
    at = 0;
    for (const Operand& o : now.out) warp.put(o, lane, value >> at), at += each;
  }
  warp.defined(now.out, mask);
}
void local_address(Warp& warp, const Instruction& now, u32 mask) {
  for (int lane : Lanes(mask))
    warp.put(now.out[0], lane, LOCAL_BASE + warp.local_base[lane].back() + now.address.offset);
  warp.defined(now.out[0], mask);
}

}  // namespace ptxemu
