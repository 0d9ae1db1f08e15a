// The cuda engine on a GPU. Functions throw std::runtime_error with CUDA's own message.
#pragma once

#include <memory>
#include <stdexcept>

#include "cuda/engine.h"

namespace spx::cuda {

// 0 on a machine without a GPU or without a driver.
int device_count();

// Ten times the major number plus the minor: 80 for an A100, 90 for an H100 or H200.
int compute_capability(int device);

// A network that is too large for the device; the text says why.
class DoesNotFit : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Device {
 public:
  // Puts the network on the device, and sees how many windows a block has room for.
  Device(CudaTables tables, Options options);
  ~Device();
  void draw(const Job& job, const Report& report) const;
  void evaluate(const Known& known) const;
  Options options() const;
  // Bytes of the device's memory that nobody uses.
  size_t free_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace spx::cuda
