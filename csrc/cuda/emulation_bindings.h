#pragma once

#include <pybind11/pybind11.h>

namespace spx {

// Puts the cuda engine's host build into spxcore._native.
void define_cuda_emulation(pybind11::module_& module);

}  // namespace spx
