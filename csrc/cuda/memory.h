// CUDA's errors as exceptions, and memory that is freed with its owner.
#pragma once

#include <cuda_runtime.h>

#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace spx::cuda {

// Python's MemoryError: of which a command makes one sentence.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string text) : text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next call would report this error once more
  const std::string text =
      std::string("CUDA: ") + what + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
  if (status == cudaErrorMemoryAllocation) throw OutOfMemory(text);
  throw std::runtime_error(text);
}

// Device memory of `count` T, freed with the object.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : bytes_(count * sizeof(T)) {
    check(cudaMalloc(&data_, bytes_), "allocating device memory");
  }
  DeviceArray(const T* host, size_t count) : DeviceArray(count) {
    check(cudaMemcpy(data_, host, bytes_, cudaMemcpyHostToDevice), "copying to the device");
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.data(), host.size()) {}
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  void clear() { check(cudaMemset(data_, 0, bytes_), "clearing device memory"); }
  void copy_to(T* host) const {
    check(cudaMemcpy(host, data_, bytes_, cudaMemcpyDeviceToHost), "copying from the device");
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  size_t bytes_;
};

}  // namespace spx::cuda
