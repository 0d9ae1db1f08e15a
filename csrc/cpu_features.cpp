#include "cpu_features.h"

#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#define SPX_X86 1
#endif

namespace spx {
namespace {

#ifdef SPX_X86
struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Zeros for a leaf this processor does not have.
Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

// The register states that the operating system saves (XCR0). As assembly, since the intrinsic asks for -mxsave.
uint64_t saved_states() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool bit(uint32_t word, int index) { return (word >> index & 1) != 0; }
#endif

// Bit numbers: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, CPUID; volume 1, section 13.1.
CpuFeatures detect() {
  CpuFeatures f;
#ifdef SPX_X86
  const Registers zero = cpuid(0, 0);
  f.amd = zero.ebx == 0x68747541 && zero.edx == 0x69746e65 && zero.ecx == 0x444d4163;  // "AuthenticAMD"
  const Registers one = cpuid(1, 0);
  if (!bit(one.ecx, 27)) return f;  // the operating system saves no wide registers at all
  const uint64_t states = saved_states();
  const bool ymm = (states & 0x6) == 0x6;
  const bool zmm = (states & 0xe6) == 0xe6;
  const bool tiles = (states & 0x60000) == 0x60000;
  const Registers seven = cpuid(7, 0);
  const Registers more = seven.eax >= 1 ? cpuid(7, 1) : Registers{};
  f.fma = ymm && bit(one.ecx, 12);
  f.avx2 = ymm && bit(seven.ebx, 5);
  f.avx512f = zmm && bit(seven.ebx, 16);
  f.avx512dq = zmm && bit(seven.ebx, 17);
  f.avx512bw = zmm && bit(seven.ebx, 30);
  f.avx512vl = zmm && bit(seven.ebx, 31);
  f.avx512bf16 = zmm && bit(more.eax, 5);
  f.amx_tile = tiles && bit(seven.edx, 24);
  f.amx_bf16 = tiles && bit(seven.edx, 22);
#endif
  return f;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace spx
