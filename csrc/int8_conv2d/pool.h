#pragma once

#include "int8_conv2d/conv.h"

namespace pyprod::int8_conv2d {

// The greatest int8 under each position of the window; what lies beyond the border does not count.
void max_pool(const Shape& in, const Shape& out, const Window& window, int64_t images, const int8_t* x, int8_t* y);

// The mean over h and w of int8 or float32 images, as int8 or float32 [images, c]. Int8 are summed exactly; floats in
// the order of memory.
void mean(const Shape& in, int64_t images, Element x_type, Quantization x_is, const void* x, Element y_type,
          Quantization y_is, void* y);

}  // namespace pyprod::int8_conv2d
