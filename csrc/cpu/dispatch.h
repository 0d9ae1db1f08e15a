// Which instruction sets this machine can run.
#pragma once

#include <vector>

#include "kernels.h"

namespace spx {

// The fastest first.
std::vector<const Kernels*> available_kernels();

// bf16 on the matrix unit, if this machine has one and lends it; else by dot products, where they are faster than fp32;
// else null.
const TileKernels* available_tile_kernels();

}  // namespace spx
