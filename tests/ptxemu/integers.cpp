// Whole numbers and predicates.
#include <algorithm>
#include <tuple>

#include "lanewise.h"

namespace ptxemu {
namespace {

template <class T>
T high_half(T a, T b) {
  if constexpr (sizeof(T) == 8) {
    using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    return static_cast<T>((static_cast<Wide>(a) * static_cast<Wide>(b)) >> 64);
  } else {
    using Wide = std::conditional_t<std::is_signed_v<T>, s64, u64>;
    return static_cast<T>((static_cast<Wide>(a) * static_cast<Wide>(b)) >> 8 * sizeof(T));
  }
}
template <class T>
T shifted_right(T a, u32 by) {
  if (std::is_signed_v<T>) return static_cast<T>(a >> std::min<u32>(by, 8 * sizeof(T) - 1));
  return by >= 8 * sizeof(T) ? T(0) : static_cast<T>(a >> by);
}
template <class T>
T shifted_left(T a, u32 by) {
  return by >= 8 * sizeof(T) ? T(0) : static_cast<T>(std::make_unsigned_t<T>(a) << by);
}
// bfe: `length` bits of a from bit `at` on.
template <class T>
T field(T a, u32 at, u32 length) {
  using U = std::make_unsigned_t<T>;
  at &= 255, length &= 255;
  if (!length) return 0;
  const U x = static_cast<U>(shifted_right<T>(a, at));
  if (at + length >= 8 * sizeof(T)) return static_cast<T>(x);
  const U mask = static_cast<U>((U(1) << length) - 1);
  const bool negative = std::is_signed_v<T> && (x >> (length - 1) & 1);
  return static_cast<T>((x & mask) | (negative ? static_cast<U>(~mask) : U(0)));
}
template <class T>
T quotient(T a, T b) {
  if (b == 0) return static_cast<T>(~T(0));
  if (std::is_signed_v<T> && b == static_cast<T>(-1))
    return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a));
  return static_cast<T>(a / b);
}
template <class T>
T remainder(T a, T b) {
  if (b == 0) return a;
  return std::is_signed_v<T> && b == static_cast<T>(-1) ? T(0) : static_cast<T>(a % b);
}

template <class T>
Run of_type(const string& name, const string& which) {
  using U = std::make_unsigned_t<T>;
  if (which == "hi") return name == "mul" ? lanewise<T, high_half<T>, T, T> : nullptr;
  if (name == "mul" && which == "lo") return lanewise<T, [](T a, T b) { return T(u64(a) * u64(b)); }, T, T>;
  if (name == "mad" && which == "lo") {
    return lanewise<T, [](T a, T b, T c) { return T(u64(a) * u64(b) + u64(c)); }, T, T, T>;
  }
  if (which != "") return nullptr;
  if (name == "add") return lanewise<T, [](T a, T b) { return T(U(a) + U(b)); }, T, T>;
  if (name == "sub") return lanewise<T, [](T a, T b) { return T(U(a) - U(b)); }, T, T>;
  if (name == "div") return lanewise<T, quotient<T>, T, T>;
  if (name == "rem") return lanewise<T, remainder<T>, T, T>;
  if (name == "min") return lanewise<T, [](T a, T b) { return a < b ? a : b; }, T, T>;
  if (name == "max") return lanewise<T, [](T a, T b) { return a < b ? b : a; }, T, T>;
  if (name == "and") return lanewise<T, [](T a, T b) { return T(a & b); }, T, T>;
  if (name == "or") return lanewise<T, [](T a, T b) { return T(a | b); }, T, T>;
  if (name == "xor") return lanewise<T, [](T a, T b) { return T(a ^ b); }, T, T>;
  if (name == "not") return lanewise<T, [](T a) { return T(~a); }, T>;
  if (name == "neg") return lanewise<T, [](T a) { return T(U(0) - U(a)); }, T>;
  if (name == "abs") return lanewise<T, [](T a) { return a < 0 ? T(U(0) - U(a)) : a; }, T>;
  if (name == "shl") return lanewise<T, shifted_left<T>, T, u32>;
  if (name == "shr") return lanewise<T, shifted_right<T>, T, u32>;
  if (name == "bfe") return lanewise<T, field<T>, T, u32, u32>;
  if (name == "popc") return lanewise<u32, [](T a) { return u32(std::popcount(U(a))); }, T>;
  if (name == "clz") return lanewise<u32, [](T a) { return u32(std::countl_zero(U(a))); }, T>;
  return nullptr;
}
template <class Wide, class T>
Run wide(const string& name) {
  if (name == "mul") return lanewise<Wide, [](T a, T b) { return Wide(Wide(a) * Wide(b)); }, T, T>;
  if (name == "mad")
    return lanewise<Wide, [](T a, T b, Wide c) { return Wide(u64(Wide(a) * b) + u64(c)); }, T, T, Wide>;
  return nullptr;
}

template <class T>
Run comparison(const string& how) {
  if (how == "eq") return compare<T, [](T a, T b) { return a == b; }>;
  if (how == "ne") return compare<T, [](T a, T b) { return a != b; }>;
  if (how == "lt" || how == "lo") return compare<T, [](T a, T b) { return a < b; }>;
  if (how == "le" || how == "ls") return compare<T, [](T a, T b) { return a <= b; }>;
  if (how == "gt" || how == "hi") return compare<T, [](T a, T b) { return b < a; }>;
  if (how == "ge" || how == "hs") return compare<T, [](T a, T b) { return b <= a; }>;
  return nullptr;
}

// F with a type's number as its template argument's type.
template <class F>
Run by_type(const string& type, F f) {
  if (type == "u16" || type == "b16") return f(u16());
  if (type == "u32" || type == "b32") return f(u32());
  if (type == "u64" || type == "b64") return f(u64());
  if (type == "s16") return f(s16());
  if (type == "s32") return f(s32());
  if (type == "s64") return f(s64());
  return nullptr;
}

template <auto F>
void masks(Warp& warp, const Instruction& now, u32 mask) {
  const u32 a = *warp.in<u32>(now.in[0]), b = now.in.size() > 1 ? *warp.in<u32>(now.in[1]) : 0;
  u32& out = *warp.out<u32>(now.out[0]);
  out = (out & ~mask) | (F(a, b) & mask);
  warp.defined(now.out[0], mask);
}

template <class T>
void select_of(Warp& warp, const Instruction& now, u32 mask) {
  const T *a = warp.in<T>(now.in[0]), *b = warp.in<T>(now.in[1]);
  const u32 which = *warp.in<u32>(now.in[2]);
  T results[LANES];
  for (int lane = 0; lane < LANES; lane++) results[lane] = which >> lane & 1 ? a[lane] : b[lane];
  keep(warp, now.out[0], results, mask);
}

// prmt: byte i of the result is the byte of b:a that nibble i of c names, or its sign.
u32 permuted(u32 a, u32 b, u32 c) {
  const u64 bytes = static_cast<u64>(b) << 32 | a;
  u32 result = 0;
  for (int i = 0; i < 4; i++) {
    const u32 nibble = c >> 4 * i & 15, byte = bytes >> 8 * (nibble & 7) & 255;
    result |= (nibble & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * i;
  }
  return result;
}
u32 funnel_left(u32 a, u32 b, u32 c) { return static_cast<u32>((static_cast<u64>(b) << 32 | a) << (c & 31) >> 32); }
u32 funnel_right(u32 a, u32 b, u32 c) { return static_cast<u32>((static_cast<u64>(b) << 32 | a) >> (c & 31)); }

// isspacep.shared
void is_shared(Warp& warp, const Instruction& now, u32 mask) {
  const u64* address = warp.in<u64>(now.in[0]);
  u32& out = *warp.out<u32>(now.out[0]);
  for (int lane : Lanes(mask)) out = (out & ~(1u << lane)) | (address[lane] >> 60 == SHARED >> 60) << lane;
  warp.defined(now.out[0], mask);
}

}  // namespace

Run integer(const string& name, const string& which, const string& type) {
  if (which == "wide") {
    if (type == "s32") return wide<s64, s32>(name);
    if (type == "u32") return wide<u64, u32>(name);
    if (type == "s16") return wide<s32, s16>(name);
    if (type == "u16") return wide<u32, u16>(name);
    return nullptr;
  }
  return by_type(type, [&](auto t) { return of_type<decltype(t)>(name, which); });
}
Run integer_comparison(const string& how, const string& type) {
  return by_type(type, [&](auto t) { return comparison<decltype(t)>(how); });
}
Run predicate(const string& name) {
  if (name == "mov") return masks<[](u32 a, u32) { return a; }>;
  if (name == "not") return masks<[](u32 a, u32) { return ~a; }>;
  if (name == "and") return masks<[](u32 a, u32 b) { return a & b; }>;
  if (name == "or") return masks<[](u32 a, u32 b) { return a | b; }>;
  if (name == "xor") return masks<[](u32 a, u32 b) { return a ^ b; }>;
  return nullptr;
}
Run bits_of_words(const string& name, const string& which) {
  if (name == "prmt") return lanewise<u32, permuted, u32, u32, u32>;
  return which == "l" ? lanewise<u32, funnel_left, u32, u32, u32> : lanewise<u32, funnel_right, u32, u32, u32>;
}
Run move(int size) {
  if (size == 2) return lanewise<u16, [](u16 a) { return a; }, u16>;
  if (size == 4) return lanewise<u32, [](u32 a) { return a; }, u32>;
  return size == 8 ? lanewise<u64, [](u64 a) { return a; }, u64> : nullptr;
}
Run select(int size) {
  return size == 2 ? select_of<u16> : size == 4 ? select_of<u32> : size == 8 ? select_of<u64> : nullptr;
}
Run in_shared_memory() { return is_shared; }
Run shift_address(u64 by) {
  if (by == 0) return move(8);
  if (by == SHARED) return lanewise<u64, [](u64 a) { return a + SHARED; }, u64>;
  if (by == LOCAL) return lanewise<u64, [](u64 a) { return a + LOCAL; }, u64>;
  if (by == PARAMS) return lanewise<u64, [](u64 a) { return a + PARAMS; }, u64>;
  if (by == 0 - SHARED) return lanewise<u64, [](u64 a) { return a - SHARED; }, u64>;
  if (by == 0 - LOCAL) return lanewise<u64, [](u64 a) { return a - LOCAL; }, u64>;
  return lanewise<u64, [](u64 a) { return a - PARAMS; }, u64>;
}

}  // namespace ptxemu
