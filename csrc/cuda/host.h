// spxcore._cuda's host functions. They throw std::runtime_error with CUDA's own message.
#pragma once

#include <cstdint>
#include <string>

namespace spx::cuda {

// 0 on a machine without a GPU or without a driver.
int device_count();

std::string device_name(int device);

// Ten times the major number plus the minor: 80 for an A100, 90 for an H100 or H200.
int compute_capability(int device);

// Draws N pixels on the current device. All pointers are host memory: params [N, P], rows, columns and images [N],
// levels [N, C] out. P = parameters_per_component(channels) * components.
void draw(const float* params, const uint32_t* rows, const uint32_t* columns, const uint32_t* images, int64_t pixels,
          int channels, int components, uint64_t seed, float temperature, bool map, uint8_t* levels);

}  // namespace spx::cuda
