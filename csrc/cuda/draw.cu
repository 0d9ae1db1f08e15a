#include "cuda/host.h"

#include <cuda_runtime.h>

#include <stdexcept>

#include "draw.h"

namespace spx::cuda {
namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next call would report this error once more
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status) + " (" +
                           cudaGetErrorName(status) + ")");
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
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  void copy_to(T* host) const {
    check(cudaMemcpy(host, data_, bytes_, cudaMemcpyDeviceToHost), "copying from the device");
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  size_t bytes_;
};

// One thread a pixel. Shapes as in draw() of the header.
__global__ void draw_kernel(const float* params, const uint32_t* rows, const uint32_t* columns, const uint32_t* images,
                            int64_t pixels, int channels, int components, uint64_t seed, float temperature, bool map,
                            uint8_t* levels) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= pixels) return;
  const uint32_t counter[4] = {rows[i], columns[i], images[i], 0};
  uint32_t words[4];
  philox4x32(seed, counter, words);
  const int parameters = parameters_per_component(channels) * components;
  spx::draw(params + i * parameters, 1, channels, components, words, temperature, map, levels + i * channels);
}

}  // namespace

int device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    return 0;
  }
  check(status, "counting the devices");
  return count;
}

std::string device_name(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "asking for a device's properties");
  return properties.name;
}

void draw(const float* params, const uint32_t* rows, const uint32_t* columns, const uint32_t* images, int64_t pixels,
          int channels, int components, uint64_t seed, float temperature, bool map, uint8_t* levels) {
  if (pixels == 0) return;  // CUDA refuses a grid of no blocks
  const DeviceArray<float> d_params(params, pixels * parameters_per_component(channels) * components);
  const DeviceArray<uint32_t> d_rows(rows, pixels), d_columns(columns, pixels), d_images(images, pixels);
  const DeviceArray<uint8_t> d_levels(pixels * channels);
  const int threads = 256;
  const unsigned blocks = static_cast<unsigned>((pixels + threads - 1) / threads);
  draw_kernel<<<blocks, threads>>>(d_params.data(), d_rows.data(), d_columns.data(), d_images.data(), pixels, channels,
                                   components, seed, temperature, map, d_levels.data());
  check(cudaGetLastError(), "launching the draw");
  check(cudaDeviceSynchronize(), "running the draw");
  d_levels.copy_to(levels);
}

}  // namespace spx::cuda
