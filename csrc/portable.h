// What lets one source be C++ and CUDA: functions marked SPX_HD run on the processor and on a GPU.
//
// They are `static` besides: a file built for AVX-512 and one built for any x86-64 each keep their own copy. With
// external linkage the linker would keep one of them, perhaps the one that a plain machine cannot run.
#pragma once

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define SPX_HD __host__ __device__
#else
#define SPX_HD
#endif
