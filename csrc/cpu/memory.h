// Memory that kernels read and write: at 64-byte boundaries, where a wide register is loaded fastest; much of it in
// large pages, where the system has them.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace spx {

template <typename T>
struct LargePages {
  using value_type = T;
  LargePages() = default;
  template <typename U>
  LargePages(const LargePages<U>&) {}

  T* allocate(size_t count) {
    void* data = ::operator new(count * sizeof(T), alignment(count));
#if defined(__linux__)
    if (alignment(count) == std::align_val_t{LARGE_PAGE}) {
      madvise(data, count * sizeof(T) / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);  // a wish
    }
#endif
    return static_cast<T*>(data);
  }
  void deallocate(T* data, size_t count) { ::operator delete(data, alignment(count)); }

  bool operator==(const LargePages&) const { return true; }
  bool operator!=(const LargePages&) const { return false; }

 private:
  static constexpr size_t LARGE_PAGE = 1 << 21;
  static std::align_val_t alignment(size_t count) {
    return std::align_val_t{count * sizeof(T) >= LARGE_PAGE ? LARGE_PAGE : 64};
  }
};

using AlignedFloats = std::vector<float, LargePages<float>>;

}  // namespace spx
