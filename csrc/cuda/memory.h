// CUDA's errors as exceptions, and what is given back with its owner.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "sizes.h"

namespace spx::cuda {

// What to do about an error whose text does not say it; "" for others.
inline std::string advice(cudaError_t status) {
  switch (status) {
    case cudaErrorInsufficientDriver:
    case cudaErrorUnsupportedPtxVersion:
      return ": the NVIDIA driver is older than the CUDA that spx was built with; install a newer driver";
    case cudaErrorInitializationError:
      return ": a process that was forked after its parent had used CUDA cannot use it; start processes by spawn";
    case cudaErrorNoKernelImageForDevice:
      return ": spx was not built for this GPU; install it again with the environment variable CUDAARCHS=native";
    case cudaErrorLaunchTimeout:
      return ": the driver ends what takes seconds on a GPU that a display uses; draw fewer or smaller images at once, "
             "or "
             "use another engine";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
      return ": this is a mistake in spx, and this process cannot use the GPU any more; use another engine in a new "
             "one";
    default:
      return "";
  }
}

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next call would report this error once more
  const std::string text = std::string("CUDA: ") + what + ": " + cudaGetErrorString(status) + " (" +
                           cudaGetErrorName(status) + ")" + advice(status);
  if (status == cudaErrorMemoryAllocation) throw OutOfMemory(text);
  throw std::runtime_error(text);
}

// Makes a device the thread's current one; PyTorch and whoever else finds the old one again.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check(cudaGetDevice(&before_), "asking for the current device");
    if (before_ == device) return;
    check(cudaSetDevice(device), "choosing the device");
    changed_ = true;
  }
  ~CurrentDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// A stream of its own: no other stream waits for it, the default one included.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  bool busy() const {
    const cudaError_t status = cudaStreamQuery(stream_);
    if (status == cudaErrorNotReady) {
      cudaGetLastError();
      return true;
    }
    check(status, "running the kernel");
    return false;
  }
  void wait() const { check(cudaStreamSynchronize(stream_), "waiting for the GPU"); }
  // To the host, in the stream's order; `wait` before it is read.
  template <typename T>
  void fetch(T* host, const T* device, size_t count) const {
    if (count == 0) return;
    check(cudaMemcpyAsync(host, device, count * sizeof(T), cudaMemcpyDeviceToHost, stream_), "copying from the device");
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Arrays on the device that live as long as this; filled in the order of a stream.
class DeviceArrays {
 public:
  explicit DeviceArrays(const Stream& stream) : stream_(stream) {}
  ~DeviceArrays() {
    for (void* data : all_) cudaFree(data);
  }
  DeviceArrays(const DeviceArrays&) = delete;
  DeviceArrays& operator=(const DeviceArrays&) = delete;

  template <typename T>
  T* copy(const T* host, size_t count) {
    T* data = room<T>(count);
    if (count == 0) return data;
    check(cudaMemcpyAsync(data, host, count * sizeof(T), cudaMemcpyHostToDevice, stream_.get()),
          "copying to the device");
    return data;
  }
  // Every byte the same: 0 for zeros, 255 for NaN.
  template <typename T>
  T* filled(size_t count, int byte = 0) {
    T* data = room<T>(count);
    if (count == 0) return data;
    check(cudaMemsetAsync(data, byte, count * sizeof(T), stream_.get()), "clearing device memory");
    return data;
  }
  size_t bytes() const { return bytes_; }

 private:
  template <typename T>
  T* room(size_t count) {
    void* data = nullptr;
    check(cudaMalloc(&data, std::max<size_t>(count * sizeof(T), 16)), "allocating device memory");
    all_.push_back(data);
    bytes_ += count * sizeof(T);
    return static_cast<T*>(data);
  }

  const Stream& stream_;
  std::vector<void*> all_;
  size_t bytes_ = 0;
};

// Zeroed memory of the host that the kernel reads and writes too.
template <typename T>
class MappedArray {
 public:
  explicit MappedArray(size_t count) {
    check(cudaHostAlloc(&host_, count * sizeof(T), cudaHostAllocMapped), "allocating mapped memory");
    std::fill_n(static_cast<volatile T*>(host_), count, T{});
    const cudaError_t status = cudaHostGetDevicePointer(reinterpret_cast<void**>(&device_), host_, 0);
    if (status != cudaSuccess) cudaFreeHost(host_);
    check(status, "mapping memory of the host");
  }
  ~MappedArray() { cudaFreeHost(host_); }
  MappedArray(const MappedArray&) = delete;
  MappedArray& operator=(const MappedArray&) = delete;
  T get(size_t i) const { return static_cast<volatile T*>(host_)[i]; }
  void set(size_t i, T value) { static_cast<volatile T*>(host_)[i] = value; }
  T* device() const { return device_; }

 private:
  T *host_ = nullptr, *device_ = nullptr;
};

}  // namespace spx::cuda
