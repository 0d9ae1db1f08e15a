#include "cuda/host.h"

#include "cuda/memory.h"
#include "draw.h"

namespace spx::cuda {
namespace {

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

int compute_capability(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "asking for a device's properties");
  return 10 * properties.major + properties.minor;
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
