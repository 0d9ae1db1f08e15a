// Single precision.
#include <fenv.h>

#include <cmath>
#include <tuple>

#include "lanewise.h"
#include "settings.h"

namespace ptxemu {
namespace {

float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// The result of an approximate instruction: rounded, or somewhere within the manual's bound; the same for the same
// number, as a GPU's is.
float approximate(double exact, float x, int ulps) {
  float result = static_cast<float>(exact);
  if (!settings.perturb || !std::isfinite(result) || result == 0) return result;
  u64 hash = std::bit_cast<u32>(x) * 0x9E3779B97F4A7C15ull + settings.seed * 0xD1B54A32D192ED03ull;
  hash ^= hash >> 29, hash *= 0xBF58476D1CE4E5B9ull, hash ^= hash >> 32;
  const int by = static_cast<int>(hash % (2 * ulps + 1)) - ulps;
  for (int i = 0; i < std::abs(by); i++) result = std::nextafter(result, by > 0 ? INFINITY : -INFINITY);
  return result;
}
float ex2(float x) { return approximate(std::exp2(static_cast<double>(x)), x, 2); }
float ex2_flushed(float x) { return flushed(ex2(flushed(x))); }
float rcp_flushed(float x) { return flushed(approximate(1.0 / static_cast<double>(flushed(x)), x, 1)); }
float rcp(float x) { return approximate(1.0 / static_cast<double>(x), x, 1); }
float lg2_flushed(float x) { return approximate(std::log2(static_cast<double>(flushed(x))), x, 1); }
float divided(float a, float b) { return approximate(static_cast<double>(a) / static_cast<double>(b), a, 2); }

template <int ROUNDING>
[[gnu::noinline]] float rounded_fma(float a, float b, float c) {
  const int before = fegetround();
  fesetround(ROUNDING);
  volatile float x = a, y = b, z = c;
  volatile float result = std::fma(x, y, z);
  fesetround(before);
  return result;
}
float minimum(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) ? b : a;
  return a < b || (a == b && std::signbit(a)) ? a : b;
}
float maximum(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) ? b : a;
  return a > b || (a == b && !std::signbit(a)) ? a : b;
}
// copysign.f32 d, a, b: the sign of a and the rest of b.
u32 with_sign(u32 a, u32 b) { return (a & 0x80000000u) | (b & 0x7fffffffu); }

template <class T>
Run comparison(const string& how) {
  if (how == "eq") return compare<T, [](T a, T b) { return a == b; }>;
  if (how == "ne") return compare<T, [](T a, T b) { return a < b || b < a; }>;
  if (how == "lt") return compare<T, [](T a, T b) { return a < b; }>;
  if (how == "le") return compare<T, [](T a, T b) { return a <= b; }>;
  if (how == "gt") return compare<T, [](T a, T b) { return b < a; }>;
  if (how == "ge") return compare<T, [](T a, T b) { return b <= a; }>;
  // With u: or either is no number.
  if (how == "equ") return compare<T, [](T a, T b) { return !(a < b || b < a); }>;
  if (how == "neu") return compare<T, [](T a, T b) { return a != b; }>;
  if (how == "ltu") return compare<T, [](T a, T b) { return !(b <= a); }>;
  if (how == "leu") return compare<T, [](T a, T b) { return !(b < a); }>;
  if (how == "gtu") return compare<T, [](T a, T b) { return !(a <= b); }>;
  if (how == "geu") return compare<T, [](T a, T b) { return !(a < b); }>;
  if (how == "num") return compare<T, [](T a, T b) { return a == a && b == b; }>;
  if (how == "nan") return compare<T, [](T a, T b) { return a != a || b != b; }>;
  return nullptr;
}

}  // namespace

// rounding: "rn", "rm", "rz", "approx", "full" or "", which is "rn".
Run float_operation(const string& name, const string& rounding, bool flush) {
  const bool nearest = rounding == "" || rounding == "rn";
  if (name == "fma" && rounding == "rn" && flush) {
    return lanewise<float, [](float a, float b, float c) { return flushed(fmaf(flushed(a), flushed(b), flushed(c))); },
                    float, float, float>;
  }
  if (name == "ex2" && rounding == "approx")
    return flush ? lanewise<float, ex2_flushed, float> : lanewise<float, ex2, float>;
  if (name == "rcp" && rounding == "approx")
    return flush ? lanewise<float, rcp_flushed, float> : lanewise<float, rcp, float>;
  if (name == "lg2" && rounding == "approx") return lanewise<float, lg2_flushed, float>;
  if (flush) return nullptr;
  if (name == "fma" && rounding == "rn") {
    return lanewise<float, [](float a, float b, float c) { return fmaf(a, b, c); }, float, float, float>;
  }
  if (name == "fma" && rounding == "rm") return lanewise<float, rounded_fma<FE_DOWNWARD>, float, float, float>;
  if (name == "fma" && rounding == "rz") return lanewise<float, rounded_fma<FE_TOWARDZERO>, float, float, float>;
  if (name == "add" && rounding == "rz") {
    return lanewise<float, [](float a, float b) { return rounded_fma<FE_TOWARDZERO>(a, 1, b); }, float, float>;
  }
  if (name == "div" && (rounding == "full" || rounding == "approx")) return lanewise<float, divided, float, float>;
  if (!nearest) return nullptr;
  if (name == "add") return lanewise<float, [](float a, float b) { return a + b; }, float, float>;
  if (name == "sub") return lanewise<float, [](float a, float b) { return a - b; }, float, float>;
  if (name == "mul") return lanewise<float, [](float a, float b) { return a * b; }, float, float>;
  if (name == "div") return lanewise<float, [](float a, float b) { return a / b; }, float, float>;
  if (name == "rcp") return lanewise<float, [](float a) { return 1.0f / a; }, float>;
  if (name == "sqrt") return lanewise<float, [](float a) { return std::sqrt(a); }, float>;
  if (name == "min") return lanewise<float, minimum, float, float>;
  if (name == "max") return lanewise<float, maximum, float, float>;
  if (name == "neg") return lanewise<u32, [](u32 a) { return a ^ 0x80000000u; }, u32>;
  if (name == "abs") return lanewise<u32, [](u32 a) { return a & 0x7fffffffu; }, u32>;
  if (name == "copysign") return lanewise<u32, with_sign, u32, u32>;
  return nullptr;
}

Run float_comparison(const string& how, int bytes) {
  return bytes == 4 ? comparison<float>(how) : bytes == 8 ? comparison<double>(how) : nullptr;
}

}  // namespace ptxemu
