// Empty, but for the null, where the compiler was not told to target it (other processors).
#if defined(__AVX2__)

#include "kernels_impl.h"

namespace spx {
const Kernels* kernels_avx2() {
  static const Kernels kernels = make_kernels("avx2");
  return &kernels;
}
}  // namespace spx

#else

#include "kernels.h"

namespace spx {
const Kernels* kernels_avx2() { return nullptr; }
}  // namespace spx

#endif
