// One register of floats of the instruction set that a file is compiled for, and the functions the network needs.
//
// Everything is in an anonymous namespace: a function of a file for AVX-512 must never be linked into a plain one.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace spx {
namespace {

#if defined(__AVX512F__)

constexpr int WIDTH = 16;
using Vec = __m512;
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline Vec all(float x) { return _mm512_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec minimum(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec add_to_exponent(Vec x, Vec bits) {  // x 2^n, n being the low bits of `bits`
  const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(bits), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), n));
}
inline Vec reciprocal(Vec x) {  // the 14-bit estimate and one Newton step; x positive and far from overflow
  const Vec r = _mm512_rcp14_ps(x);
  return r * (all(2.0f) - x * r);
}
inline void store_side_by_side(float* p, Vec a, Vec b) {  // a_0, b_0, a_1, b_1 ...
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  store(p, _mm512_permutex2var_ps(a, low, b));
  store(p + 16, _mm512_permutex2var_ps(a, high, b));
}
inline void load_side_by_side(const float* p, Vec* a, Vec* b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  const Vec low = load(p), high = load(p + 16);
  *a = _mm512_permutex2var_ps(low, even, high);
  *b = _mm512_permutex2var_ps(low, odd, high);
}

#elif defined(__AVX2__)

constexpr int WIDTH = 8;
using Vec = __m256;
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
inline Vec all(float x) { return _mm256_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec minimum(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec add_to_exponent(Vec x, Vec bits) {
  const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(bits), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), n));
}
inline Vec reciprocal(Vec x) { return _mm256_div_ps(all(1.0f), x); }
inline void store_side_by_side(float* p, Vec a, Vec b) {
  const Vec low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
  store(p, _mm256_permute2f128_ps(low, high, 0x20));
  store(p + 8, _mm256_permute2f128_ps(low, high, 0x31));
}
inline void load_side_by_side(const float* p, Vec* a, Vec* b) {
  const Vec first = load(p), second = load(p + 8);
  const Vec low = _mm256_permute2f128_ps(first, second, 0x20), high = _mm256_permute2f128_ps(first, second, 0x31);
  *a = _mm256_shuffle_ps(low, high, 0x88);
  *b = _mm256_shuffle_ps(low, high, 0xdd);
}

#else

// Any processor: vectors of the compiler, four floats each (SSE2, NEON). No fused multiply-add: two roundings.
constexpr int WIDTH = 4;
typedef float Vec __attribute__((vector_size(16)));
typedef int32_t Integers __attribute__((vector_size(16)));
inline Vec load(const float* p) {
  Vec x;
  memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float* p, Vec x) { memcpy(p, &x, sizeof x); }
inline Vec all(float x) { return Vec{x, x, x, x}; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec select(Integers mask, Vec then, Vec otherwise) {
  return (Vec)((mask & (Integers)then) | (~mask & (Integers)otherwise));
}
inline Vec minimum(Vec a, Vec b) { return select(a < b, a, b); }
inline Vec maximum(Vec a, Vec b) { return select(a > b, a, b); }
inline Vec add_to_exponent(Vec x, Vec bits) { return (Vec)((Integers)x + ((Integers)bits << 23)); }
inline Vec reciprocal(Vec x) { return all(1.0f) / x; }
inline void store_side_by_side(float* p, Vec a, Vec b) {
  store(p, Vec{a[0], b[0], a[1], b[1]});
  store(p + 4, Vec{a[2], b[2], a[3], b[3]});
}
inline void load_side_by_side(const float* p, Vec* a, Vec* b) {
  const Vec low = load(p), high = load(p + 4);
  *a = Vec{low[0], low[2], high[0], high[2]};
  *b = Vec{low[1], low[3], high[1], high[3]};
}

#endif

// Into the second-level cache.
inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// e^x for -87 <= x <= 87, within 1.3e-7 for x <= 0: 2^n 2^f, f in [-1/2, 1/2], 2^f by the polynomial of degree 5 whose
// largest relative error is least (9e-8) of those that are 1 at 0.
inline Vec exponential(Vec x) {
  const Vec log2_e = all(1.44269504088896341f), magic = all(12582912.0f);  // 1.5 * 2^23 pushes the fraction out
  const Vec shifted = fma(x, log2_e, magic);
  const Vec f = fma(x, log2_e, magic - shifted);
  Vec p = all(1.3264726891e-3f);
  p = fma(p, f, all(9.6715129101e-3f));
  p = fma(p, f, all(5.5507337466e-2f));
  p = fma(p, f, all(2.4022242081e-1f));
  p = fma(p, f, all(6.9314697760e-1f));
  p = fma(p, f, all(1.0f));
  return add_to_exponent(p, shifted);
}

inline Vec sigmoid(Vec x) {
  const Vec bounded = maximum(minimum(x, all(87.0f)), all(-87.0f));
  return reciprocal(all(1.0f) + exponential(all(0.0f) - bounded));
}

inline Vec tanh_gate(Vec a, Vec b) { return fma(all(2.0f), sigmoid(a + a), all(-1.0f)) * sigmoid(b); }

// elu(x) and elu(-x) with one exponential: one of them is |x|, the other e^-|x| - 1, which is at least -|x|.
inline void concat_elu(Vec x, Vec* of_x, Vec* of_minus_x) {
  const Vec minus = all(0.0f) - x;
  const Vec below = exponential(maximum(minimum(x, minus), all(-87.0f))) - all(1.0f);
  *of_x = maximum(x, below);
  *of_minus_x = maximum(minus, below);
}

// x of elu(x) and elu(-x): the one that is positive is |x|.
inline Vec from_elu(Vec of_x, Vec of_minus_x) { return maximum(all(0.0f), of_x) - maximum(all(0.0f), of_minus_x); }

#if defined(__AVX512BF16__)
// Both rounded to bf16, a in the low and b in the high half of each 32 bits.
inline void store_pair(float* p, Vec a, Vec b) {
  alignas(64) static constexpr int16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                    8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i side_by_side = (__m512i)_mm512_cvtne2ps_pbh(b, a);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(order), side_by_side));
}
// A pair in every lane. Broadcast as an integer: a float's broadcast would cost an instruction more.
inline Vec all_pairs(const void* pair) {
  int32_t bits;
  memcpy(&bits, pair, sizeof bits);
  return _mm512_castsi512_ps(_mm512_set1_epi32(bits));
}
// sum + a_low b_low + a_high b_high
inline Vec dot(Vec a, Vec b, Vec sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
#else
inline void store_pair(float*, Vec, Vec) {}
inline Vec all_pairs(const void*) { return all(0.0f); }
inline Vec dot(Vec, Vec, Vec sum) { return sum; }
#endif

}  // namespace
}  // namespace spx
