#pragma once

#include "int8_conv2d/conv.h"

namespace pyprod::int8_conv2d {

// Convolutions without patches: tiles of pixels are read in place, from a copy of the image that has its border.
// has_direct_*: whether run_direct_*() takes this one on this CPU. No dilation along a line, weights that stay in L2,
// images that are not too small.
bool has_direct_amx(const Conv& conv);
bool has_direct_vnni(const Conv& conv);

void run_direct_amx(const Conv& conv, int64_t images, const int8_t* x, const void* residual, void* out);
void run_direct_vnni(const Conv& conv, int64_t images, const int8_t* x, const void* residual, void* out);

}  // namespace pyprod::int8_conv2d
