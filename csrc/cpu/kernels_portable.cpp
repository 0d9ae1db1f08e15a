#include "kernels_impl.h"

namespace spx {
const Kernels* kernels_portable() {
  static const Kernels kernels = make_kernels("portable");
  return &kernels;
}
}  // namespace spx
