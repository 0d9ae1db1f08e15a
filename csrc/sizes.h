// Sizes whose product may be too large: for an integer, or for this machine's memory.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <string>
#include <utility>

namespace spx {

// Becomes Python's MemoryError; the commands print it as one line.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string text) : text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

// The product of sizes of 0 or more; SIZE_MAX for one that is larger.
inline size_t product_of(std::initializer_list<size_t> sizes) {
  size_t product = 1;
  bool over = false;
  for (const size_t size : sizes) {
    if (size == 0) return 0;
    over = __builtin_mul_overflow(product, size, &product) || over;
  }
  return over ? SIZE_MAX : product;
}

// Bytes of memory that this machine has.
inline size_t machine_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGE_SIZE);
  if (pages <= 0 || bytes <= 0) return SIZE_MAX;
  return product_of({static_cast<size_t>(pages), static_cast<size_t>(bytes)});
}

// Throws OutOfMemory for more bytes than this machine has. A system that promises any amount of memory ends the process
// when it is used; this says so before.
inline void require_memory(const std::string& name, size_t bytes) {
  const size_t have = machine_memory();
  if (bytes <= have) return;
  const std::string got = bytes == SIZE_MAX ? "more than can be counted" : std::to_string(bytes >> 20) + " MB";
  throw OutOfMemory(name + ": expected at most the " + std::to_string(have >> 20) + " MB of this machine, got " + got);
}

}  // namespace spx
