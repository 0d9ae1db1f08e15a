// The cuda engine on a GPU. Functions throw std::runtime_error with CUDA's own message.
#pragma once

#include <memory>
#include <stdexcept>

#include "cuda/engine.h"

namespace spx::cuda {

// A network that is too large for the device; the text says why.
class DoesNotFit : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Device {
 public:
  // Puts the network on the device, and sees how many windows a block has room for.
  Device(Tables tables, Options options);
  ~Device();
  void sample(const Job& job, const Report& report) const;
  void evaluate(const Known& known) const;
  Options options() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace spx::cuda
