// int8_conv2d: its schema, the checks of its arguments, and its CPU implementation.

#include "int8_gemm/ops.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cfloat>
#include <limits>
#include <vector>

#include "common/checks.h"
#include "common/output.h"
#include "int8_conv2d/conv.h"

namespace pyprod::int8_conv2d {
namespace {

constexpr const char* kOp = "int8_conv2d";

Quantization check_quantization(const char* name, double scale, int64_t zero_point) {
  PYPROD_CHECK(scale >= FLT_MIN && scale <= FLT_MAX, kOp, ": ", name,
               "_scale must be positive, finite and normal, got ", scale);
  PYPROD_CHECK(zero_point >= -128 && zero_point <= 127, kOp, ": ", name, "_zero_point must be in [-128, 127], got ",
               zero_point);
  return {static_cast<float>(scale), static_cast<int32_t>(zero_point)};
}

Window check_window(const std::vector<int64_t>& w) {
  PYPROD_CHECK(w.size() == 8, kOp, ": window must be kernel, stride, padding and dilation of h and w, got ", w.size(),
               " values");
  constexpr const char* names[] = {"kernel", "stride", "padding", "dilation"};
  for (size_t i = 0; i < 8; ++i) {
    const int64_t least = i / 2 == 2 ? 0 : 1;
    PYPROD_CHECK(w[i] >= least && w[i] < (1 << 20), kOp, ": ", names[i / 2], " must be >= ", least, ", got ", w[i]);
  }
  return {w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]};
}

Shape check_shapes(const Tensor& x, const Window& window, int64_t n) {
  check_dtype(kOp, "x", x, ScalarType::Char);
  PYPROD_CHECK(x.dim() == 4, kOp, ": x must be [N, H, W, C], got ", shape_text(x));
  const Shape in = {x.size(1), x.size(2), x.size(3)}, out = slide(in, window, n);
  PYPROD_CHECK(out.h >= 1 && out.w >= 1, kOp, ": x is smaller than the kernel, got ", shape_text(x));
  PYPROD_CHECK(x.numel() < (int64_t{1} << 31) && x.size(0) * out.h * out.w < (int64_t{1} << 31), kOp,
               ": x and the output must have fewer than 2^31 elements and pixels, got ", shape_text(x));
  const int64_t k = window.kernel_h * window.kernel_w * in.c;
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max() / (255 * 128);  // the sums must fit int32
  PYPROD_CHECK(k <= kMax, kOp, ": kernel height * width * channels must be <= ", kMax, ", got ", k);
  return out;
}

void check_residual(const Tensor& residual, const Tensor& x, const Shape& out) {
  PYPROD_CHECK(residual.scalar_type() == ScalarType::Char || residual.scalar_type() == ScalarType::Float, kOp,
               ": residual must be int8 or float32, got ", dtype_name(residual.scalar_type()));
  PYPROD_CHECK(residual.dim() == 4 && residual.size(0) == x.size(0) && residual.size(1) == out.h &&
                   residual.size(2) == out.w && residual.size(3) == out.c,
               kOp, ": residual must be [", x.size(0), ", ", out.h, ", ", out.w, ", ", out.c, "], got ",
               shape_text(residual));
  check_same_device(kOp, "residual", residual, x);
}

Tensor conv2d(const Tensor& x_in, double x_scale, int64_t x_zero_point, const Tensor& packed, int64_t n,
              const Tensor& w_scale, const std::optional<Tensor>& bias, const std::vector<int64_t>& window,
              const std::optional<StringArgument>& activation, const std::optional<Tensor>& residual_in,
              double residual_scale, int64_t residual_zero_point, std::optional<double> out_scale,
              int64_t out_zero_point) {
  Conv conv;
  conv.window = check_window(window);
  conv.out = check_shapes(x_in, conv.window, n);
  conv.in = {x_in.size(1), x_in.size(2), x_in.size(3)};
  conv.x = check_quantization("x", x_scale, x_zero_point);
  int8_gemm::check_packed(kOp, packed, n, conv.k(), x_in);
  check_vector(kOp, "w_scale", w_scale, n, x_in);
  if (bias.has_value()) check_vector(kOp, "bias", *bias, n, x_in);
  conv.activation = check_activation(kOp, activation);
  if (residual_in.has_value()) {
    check_residual(*residual_in, x_in, conv.out);
    PYPROD_CHECK(conv.activation == Activation::none || conv.activation == Activation::relu, kOp,
                 ": activation must be None or relu with a residual, got ", *activation);
    conv.residual = check_quantization("residual", residual_scale, residual_zero_point);
  }
  if (out_scale.has_value()) conv.y = check_quantization("out", *out_scale, out_zero_point);

  conv.out_type = out_scale.has_value() ? Element::int8 : Element::float32;
  conv.packed = static_cast<const int8_t*>(packed.const_data_ptr());
  conv.w_scale = static_cast<const float*>(w_scale.const_data_ptr());
  conv.bias = bias.has_value() ? static_cast<const float*>(bias->const_data_ptr()) : nullptr;
  const Tensor x = torch::stable::contiguous(x_in);
  std::optional<Tensor> residual;
  if (residual_in.has_value()) {
    residual = torch::stable::contiguous(*residual_in);
    conv.residual_type = residual->scalar_type() == ScalarType::Char ? Element::int8 : Element::float32;
  }
  Tensor out = new_output(x, {x.size(0), conv.out.h, conv.out.w, n},
                          out_scale.has_value() ? ScalarType::Char : ScalarType::Float);
  run_conv(conv, x.size(0), static_cast<const int8_t*>(x.const_data_ptr()),
           residual.has_value() ? residual->const_data_ptr() : nullptr, out.mutable_data_ptr());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def(
      "int8_conv2d(Tensor x, float x_scale, int x_zero_point, Tensor packed, int n, Tensor w_scale, Tensor? bias, "
      "int[] window, str? activation=None, Tensor? residual=None, float residual_scale=1.0, "
      "int residual_zero_point=0, float? out_scale=None, int out_zero_point=0) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) { m.impl("int8_conv2d", TORCH_BOX(&conv2d)); }

}  // namespace pyprod::int8_conv2d
