#pragma once

#include "int8_conv2d/conv.h"

namespace pyprod::int8_conv2d {

// Whether run_direct() takes this convolution on this CPU: AMX, no dilation along a line, weights that stay in L2.
bool has_direct(const Conv& conv);

// Without patches: tiles of pixels are read in place, from a copy of the image that has its border (direct_amx.cpp).
void run_direct(const Conv& conv, int64_t images, const int8_t* x, const void* residual, void* out);

}  // namespace pyprod::int8_conv2d
