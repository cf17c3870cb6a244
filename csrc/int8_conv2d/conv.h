#pragma once

#include <cstdint>

#include "common/activation.h"
#include "int8_conv2d/bytes.h"

namespace pyprod::int8_conv2d {

// Multiply-adds that take about 2.5 us, gathering and finishing included: less is not worth another thread.
inline constexpr int64_t kGrain = 1 << 19;

// Purposes of scratch (common/scratch.h).
struct Patch;     // of an image, or the weights put in its order
struct Residual;  // as floats
struct Rows;      // prepared, or lines of an image with its border
struct Values;    // of a plan, for some images
struct Words;     // offsets of a window's words

// Sizes of one image; in memory [h, w, c].
struct Shape {
  int64_t h = 0, w = 0, c = 0;
  int64_t size() const { return h * w * c; }
  bool operator==(const Shape&) const = default;
};

// What slides over the image.
struct Window {
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_h = 0, pad_w = 0;
  int64_t dilation_h = 1, dilation_w = 1;
};

// Positions of the window along one axis; less than 1 where it does not fit.
inline int64_t positions(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t room = size + 2 * pad - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

inline Shape slide(const Shape& in, const Window& w, int64_t channels) {
  return {positions(in.h, w.kernel_h, w.stride_h, w.pad_h, w.dilation_h),
          positions(in.w, w.kernel_w, w.stride_w, w.pad_w, w.dilation_w), channels};
}

enum class Element : int { int8, float32 };

inline int64_t bytes_of(Element type) { return type == Element::int8 ? 1 : 4; }

// A convolution as the GEMM of patches [images * out.h * out.w, kernel_h * kernel_w * in.c] and a packed weight. With
// y = sum * (x.scale * w_scale) + bias + residual in float32, in that order:
//
//     float32 out:  activation(y)
//     int8 out:     saturate(round_to_even(activation(y) * (1 / out.scale)) + out.zero_point)
//
// A patch's elements beyond the border are x.zero_point, which stands for 0: exact.
struct Conv {
  Shape in, out;
  Window window;
  Quantization x, y, residual;
  const int8_t* packed = nullptr;
  const float* w_scale = nullptr;
  const float* bias = nullptr;  // or null
  Activation activation = Activation::none;
  Element out_type = Element::int8;
  Element residual_type = Element::int8;

  int64_t k() const { return window.kernel_h * window.kernel_w * in.c; }
};

// x: int8 [images, in]; residual: [images, out] of its type, or null; out: [images, out] of its type.
// Parallel inside, unless called from a parallel region.
void run_conv(const Conv& conv, int64_t images, const int8_t* x, const void* residual, void* out);

}  // namespace pyprod::int8_conv2d
