// The PTX inside of a program that nvcc has compiled.
#pragma once

#include "ptx.h"

namespace ptxemu {

// What __cudaRegisterFatBinary is given -> its PTX, or that of the file which the environment variable PTXEMU_PTX names
// (to put a fault in). Throws Stop if there is none as plain text.
string ptx_of_fat_binary(const void* wrapper);

}  // namespace ptxemu
