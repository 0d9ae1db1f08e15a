// What the kernels need of the machine, for nvcc and, so that they can be tested without a GPU, for any C++ compiler.
//
// On a GPU a lane of a warp is a thread. On the host a warp is a thread and goes through its 32 lanes in a loop, so
// every variable of a lane is an array [LOCAL_LANES]: one long on a GPU, where it is a register, and 32 on the host.
// Blocks run side by side and share memory exactly as on a GPU, so the thread sanitizer sees a flag or a barrier that
// is missing.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define SPX_DEVICE __device__ __forceinline__
#define SPX_DEVICE_CALL __device__ __noinline__
#define SPX_UNROLL _Pragma("unroll")
#else
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#define SPX_DEVICE inline
#define SPX_DEVICE_CALL
#define SPX_UNROLL
#endif

namespace spx::cuda {

// Where memory is: a block's own, or that of all blocks.
enum class Space { shared, global };

#ifdef __CUDACC__

constexpr int LOCAL_LANES = 1;

using Flag = int32_t;
using Counter = unsigned long long;

// This thread's place in the grid, and the block's barrier.
struct Block {
  SPX_DEVICE int number() const { return blockIdx.x; }
  SPX_DEVICE int blocks() const { return gridDim.x; }
  SPX_DEVICE int warp() const { return threadIdx.x / 32; }
  SPX_DEVICE int warps() const { return blockDim.x / 32; }
  SPX_DEVICE int lane(int) const { return threadIdx.x % 32; }
  // For loops over independent items: worker() + i workers().
  SPX_DEVICE int worker() const { return threadIdx.x; }
  SPX_DEVICE int workers() const { return blockDim.x; }
  SPX_DEVICE bool leader() const { return threadIdx.x == 0; }
  SPX_DEVICE void sync() const { __syncthreads(); }
  SPX_DEVICE void converge() const { __syncwarp(); }
};

// What other blocks, or the host, see: after `acquire` returns what `release` stored, everything written before is
// visible.
SPX_DEVICE int32_t acquire(const Flag* flag) {
  int32_t value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
SPX_DEVICE void release(Flag* flag, int32_t value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" : : "l"(flag), "r"(value) : "memory");
}
// The same for flags that the host shares.
SPX_DEVICE bool peek(const Flag* flag) { return *static_cast<const volatile Flag*>(flag) != 0; }
SPX_DEVICE void raise(Flag* flag) { *static_cast<volatile Flag*>(flag) = 1; }
SPX_DEVICE void post(Counter* counter, Counter value) { *static_cast<volatile Counter*>(counter) = value; }
SPX_DEVICE Counter take(Counter* counter) { return atomicAdd(counter, 1ull); }
SPX_DEVICE void pause() { __nanosleep(40); }

// The compiler may use instructions of the space for what is reached through p.
template <Space S>
SPX_DEVICE void assume_in(const void* p) {
  if constexpr (S == Space::shared) {
    __builtin_assume(__isShared(p));
  } else {
    __builtin_assume(__isGlobal(p));
  }
}

SPX_DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }
SPX_DEVICE float float_of(uint32_t bits) { return __uint_as_float(bits); }

// Four weights at once, through the read-only cache.
struct Four {
  uint32_t at[4];
};
SPX_DEVICE Four load_four(const uint32_t* from) {
  const uint4 four = __ldg(reinterpret_cast<const uint4*>(from));
  return {{four.x, four.y, four.z, four.w}};
}
SPX_DEVICE int32_t load_index(const int32_t* from) { return __ldg(from); }

// bf16 of both, the first in the lower half.
SPX_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
SPX_DEVICE uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// d += a b of a warp, [16][8] += [16][K] [K][8] (PTX ISA, "Matrix fragments for mma.m16n8k16" and ".m16n8k8"). Lane 4 g
// + t holds of a the words (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4), of b (t, g), (t + 4, g), of d (g, 2 t), (g,
// 2 t + 1) and the same of row g + 8. A word is two bf16 (K = 16) or one tf32 (K = 8).
template <bool BF16>
SPX_DEVICE void multiply(float (&d)[4][LOCAL_LANES], const uint32_t (&a)[4][LOCAL_LANES],
                         const uint32_t (&b)[2][LOCAL_LANES]) {
  if constexpr (BF16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0][0]), "+f"(d[1][0]), "+f"(d[2][0]), "+f"(d[3][0])
        : "r"(a[0][0]), "r"(a[1][0]), "r"(a[2][0]), "r"(a[3][0]), "r"(b[0][0]), "r"(b[1][0]));
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0][0]), "+f"(d[1][0]), "+f"(d[2][0]), "+f"(d[3][0])
        : "r"(a[0][0]), "r"(a[1][0]), "r"(a[2][0]), "r"(a[3][0]), "r"(b[0][0]), "r"(b[1][0]));
  }
}

#else  // the host

constexpr int LOCAL_LANES = 32;

using Flag = std::atomic<int32_t>;
using Counter = std::atomic<unsigned long long>;

// A block's barrier.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const int64_t turn = turn_;
    if (++waiting_ == threads_) {
      waiting_ = 0;
      ++turn_;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return turn_ != turn; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  int threads_, waiting_ = 0;
  int64_t turn_ = 0;
};

struct Block {
  int number_, blocks_, warp_, warps_;
  Barrier* barrier;
  int number() const { return number_; }
  int blocks() const { return blocks_; }
  int warp() const { return warp_; }
  int warps() const { return warps_; }
  int lane(int l) const { return l; }
  int worker() const { return warp_; }
  int workers() const { return warps_; }
  bool leader() const { return warp_ == 0; }
  void sync() const {
    if (warps_ > 1) barrier->wait();
  }
  void converge() const {}
};

inline int32_t acquire(const Flag* flag) { return flag->load(std::memory_order_acquire); }
inline void release(Flag* flag, int32_t value) { flag->store(value, std::memory_order_release); }
inline bool peek(const Flag* flag) { return flag->load(std::memory_order_relaxed) != 0; }
inline void raise(Flag* flag) { flag->store(1, std::memory_order_relaxed); }
inline void post(Counter* counter, unsigned long long value) { counter->store(value, std::memory_order_relaxed); }
inline unsigned long long take(Counter* counter) { return counter->fetch_add(1, std::memory_order_relaxed); }
inline void pause() { std::this_thread::yield(); }

template <Space>
inline void assume_in(const void*) {}

inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

struct Four {
  uint32_t at[4];
};
inline Four load_four(const uint32_t* from) { return {{from[0], from[1], from[2], from[3]}}; }
inline int32_t load_index(const int32_t* from) { return *from; }

inline uint32_t to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t pack_bf16(float low, float high) { return to_bf16(low) | to_bf16(high) << 16; }
inline uint32_t to_tf32(float x) { return (bits_of(x) + 0x1000) & 0xffffe000; }

template <bool BF16>
inline void multiply(float (&d)[4][LOCAL_LANES], const uint32_t (&a)[4][LOCAL_LANES],
                     const uint32_t (&b)[2][LOCAL_LANES]) {
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float& sum = d[row / 8 * 2 + column % 2][row % 8 * 4 + column / 2];
      for (int k = 0; k < 8; ++k) {
        const uint32_t x = a[k / 4 * 2 + row / 8][row % 8 * 4 + k % 4], w = b[k / 4][column * 4 + k % 4];
        if constexpr (BF16) {
          sum += float_of(x << 16) * float_of(w << 16);
          sum += float_of(x & 0xffff0000) * float_of(w & 0xffff0000);
        } else {
          sum += float_of(x) * float_of(w);
        }
      }
    }
  }
}

#endif

}  // namespace spx::cuda
