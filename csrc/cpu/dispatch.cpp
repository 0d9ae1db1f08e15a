#include "dispatch.h"

#include "../cpu_features.h"

namespace spx {

std::vector<const Kernels*> available_kernels() {
  const CpuFeatures& f = cpu_features();
  std::vector<const Kernels*> found;
  const bool avx2 = f.avx2 && f.fma;
  if (avx2 && f.avx512f && f.avx512dq && f.avx512bw && f.avx512vl && kernels_avx512())
    found.push_back(kernels_avx512());
  if (avx2 && kernels_avx2()) found.push_back(kernels_avx2());
  found.push_back(kernels_portable());
  return found;
}

const TileKernels* available_tile_kernels() {
  const CpuFeatures& f = cpu_features();
  if (!(f.avx512bf16 && f.avx512f && f.avx512vl && f.avx512bw && f.avx512dq)) return nullptr;
  static const bool lent = f.amx_tile && f.amx_bf16 && kernels_amx() && kernels_amx()->ask();
  if (lent) return kernels_amx();
  // Measured: on Zen 5 the dot product has 1.9 times the rate of fp32, on a Xeon of 2023 half of it.
  return f.amd ? kernels_bf16() : nullptr;
}

}  // namespace spx
