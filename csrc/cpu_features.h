// What this machine's processor and operating system can run, asked at run time.
#pragma once

namespace spx {

// All false on processors other than x86-64.
struct CpuFeatures {
  bool amd = false;  // who made it
  bool fma = false;
  bool avx2 = false;
  bool avx512f = false;
  bool avx512bw = false;
  bool avx512dq = false;
  bool avx512vl = false;
  bool avx512bf16 = false;
  // On Linux a process must also ask the kernel for leave (arch_prctl ARCH_REQ_XCOMP_PERM) before it uses the tiles.
  bool amx_tile = false;
  bool amx_bf16 = false;
};

// Asked once and kept.
const CpuFeatures& cpu_features();

}  // namespace spx
