#include "int8_conv2d/pool.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

namespace pyprod::int8_conv2d {
namespace {

PYPROD_CLONES void take_greater(const int8_t* x, int64_t n, int8_t* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] > y[i] ? x[i] : y[i];
}

PYPROD_CLONES void add_to(const int8_t* x, int64_t n, int32_t* sums) {
  for (int64_t i = 0; i < n; ++i) sums[i] += x[i];
}

PYPROD_CLONES void add_to(const float* x, int64_t n, float* sums) {
  for (int64_t i = 0; i < n; ++i) sums[i] += x[i];
}

template <class Sum, class In>
const Sum* sum_pixels(const In* x, int64_t pixels, int64_t c, std::vector<Sum>& sums) {
  std::fill(sums.begin(), sums.end(), Sum{0});
  for (int64_t p = 0; p < pixels; ++p) add_to(x + p * c, c, sums.data());
  return sums.data();
}

}  // namespace

void max_pool(const Shape& in, const Shape& out, const Window& window, int64_t images, const int8_t* x, int8_t* y) {
  const int64_t lines = images * out.h, grain = std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, out.w * out.c));
  torch::stable::parallel_for(0, lines, grain, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int8_t* image = x + line / out.h * in.size();
      int8_t* to = y + line * out.w * out.c;
      const int64_t top = line % out.h * window.stride_h - window.pad_h;
      for (int64_t column = 0; column < out.w; ++column, to += out.c) {
        const int64_t left = column * window.stride_w - window.pad_w;
        std::memset(to, -128, static_cast<size_t>(out.c));
        for (int64_t i = 0; i < window.kernel_h; ++i) {
          const int64_t row = top + i * window.dilation_h;
          if (row < 0 || row >= in.h) continue;
          for (int64_t j = 0; j < window.kernel_w; ++j) {
            const int64_t at = left + j * window.dilation_w;
            if (at >= 0 && at < in.w) take_greater(image + (row * in.w + at) * in.c, in.c, to);
          }
        }
      }
    }
  });
}

void mean(const Shape& in, int64_t images, Element x_type, Quantization x_is, const void* x, Element y_type,
          Quantization y_is, void* y) {
  const int64_t pixels = in.h * in.w;
  const float count = static_cast<float>(pixels);
  std::vector<int32_t> integers(x_type == Element::int8 ? static_cast<size_t>(in.c) : 0);
  std::vector<float> result(static_cast<size_t>(in.c));
  for (int64_t image = 0; image < images; ++image) {
    if (x_type == Element::int8) {
      const int32_t* sums = sum_pixels(static_cast<const int8_t*>(x) + image * in.size(), pixels, in.c, integers);
      const int32_t zero = static_cast<int32_t>(pixels) * x_is.zero_point;
      for (int64_t i = 0; i < in.c; ++i)
        result[static_cast<size_t>(i)] = static_cast<float>(sums[i] - zero) * x_is.scale / count;
    } else {
      sum_pixels(static_cast<const float*>(x) + image * in.size(), pixels, in.c, result);
      for (float& sum : result) sum /= count;
    }
    if (y_type == Element::int8) {
      quantize_run(result.data(), in.c, y_is, static_cast<int8_t*>(y) + image * in.c);
    } else {
      std::copy(result.begin(), result.end(), static_cast<float*>(y) + image * in.c);
    }
  }
}

}  // namespace pyprod::int8_conv2d
