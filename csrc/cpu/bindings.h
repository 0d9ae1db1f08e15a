#pragma once

#include <pybind11/pybind11.h>

namespace spx {

// Puts the cpp engine into spxcore._native.
void define_cpu_engine(pybind11::module_& module);

}  // namespace spx
