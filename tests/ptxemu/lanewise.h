// Operations that do to every lane the same: one, two or three numbers in, one out.
#pragma once

#include "operations.h"

namespace ptxemu {

template <class T>
void keep(Warp& warp, const Operand& to, const T* results, u32 mask) {
  T* out = warp.out<T>(to);
  if (mask == ~0u) {
    memcpy(out, results, sizeof(T) * LANES);
  } else {
    for (int lane : Lanes(mask)) out[lane] = results[lane];
  }
  warp.defined(to, mask);
}

template <class Out, auto F, class... In, size_t... I>
void lanewise_of(Warp& warp, const Instruction& now, u32 mask, std::index_sequence<I...>) {
  const auto inputs = std::tuple<const In*...>{warp.in<In>(now.in[I])...};
  Out results[LANES];
  for (int lane = 0; lane < LANES; lane++) results[lane] = F(std::get<I>(inputs)[lane]...);
  keep(warp, now.out[0], results, mask);
}
// Lanes that the mask leaves out are computed too and thrown away: F must take any numbers.
template <class Out, auto F, class... In>
void lanewise(Warp& warp, const Instruction& now, u32 mask) {
  lanewise_of<Out, F, In...>(warp, now, mask, std::index_sequence_for<In...>());
}

// setp: mode & | ^ combines with a third operand, a predicate.
template <class T, auto F>
void compare(Warp& warp, const Instruction& now, u32 mask) {
  const T *a = warp.in<T>(now.in[0]), *b = warp.in<T>(now.in[1]);
  u32 result = 0;
  for (int lane = 0; lane < LANES; lane++) result |= (F(a[lane], b[lane]) ? 1u : 0u) << lane;
  if (now.mode) {
    const u32 c = *warp.in<u32>(now.in[2]);
    result = now.mode == '&' ? result & c : now.mode == '|' ? result | c : result ^ c;
  }
  u32& out = *warp.out<u32>(now.out[0]);
  out = (out & ~mask) | (result & mask);
  warp.defined(now.out[0], mask);
}

}  // namespace ptxemu
