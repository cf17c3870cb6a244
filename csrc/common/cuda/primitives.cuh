#pragma once

// Device primitives: one function per instruction, sm_80 and newer, sm_90a where it says so. Kernels are written in
// them alone, so one source is device code under nvcc and, under g++, runs on the CPU (emulator/).

#if defined(__CUDACC__)
#include "common/cuda/device.cuh"
#else
#include "emulator/primitives.h"
#endif
