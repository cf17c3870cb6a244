// Whole linear layers on the CPU: float activations quantized on the way, activations that were quantized row by row
// before, and activations of one static scale and zero point.

#include <torch/csrc/stable/library.h>

#include <cfloat>

#include "common/parallel.h"
#include "int8_gemm/driver.h"
#include "int8_gemm/ops.h"

namespace pyprod::int8_gemm {
namespace {

const int8_t* bytes_of(const Tensor& packed) { return static_cast<const int8_t*>(packed.const_data_ptr()); }

// The epilogue of a layer into `out`; `residual` holds the contiguous one for as long as the epilogue is used.
Epilogue epilogue_of(const Layer& layer, Activation activation, Tensor& out, std::optional<Tensor>& residual) {
  if (layer.residual.has_value()) residual = torch::stable::contiguous(*layer.residual);
  Epilogue e;
  e.col_scale = static_cast<const float*>(layer.w_scale.const_data_ptr());
  e.bias = layer.bias.has_value() ? static_cast<const float*>(layer.bias->const_data_ptr()) : nullptr;
  e.activation = activation;
  e.residual = residual.has_value() ? residual->const_data_ptr() : nullptr;
  e.out = out.mutable_data_ptr();
  e.out_stride = layer.n;
  return e;
}

Tensor linear(const Tensor& x_in, const Tensor& packed, int64_t n, int64_t k, const Tensor& w_scale,
              const std::optional<Tensor>& bias, const std::optional<StringArgument>& activation,
              const std::optional<Tensor>& residual_in, std::optional<ScalarType> out_dtype) {
  const Layer layer = {packed, n, k, w_scale, bias, activation, residual_in};
  const LinearTypes types = check_linear(x_in, layer, out_dtype);
  const int64_t m = rows_of(x_in);
  const Path& isa = path_for(m);
  const Tensor x = plain_rows(x_in);
  Tensor out = new_output(x, with_last(x, n), types.out_dtype);
  std::optional<Tensor> residual;
  Epilogue epilogue = epilogue_of(layer, types.activation, out, residual);
  epilogue.type = types.out;
  float* scales = reinterpret_cast<float*>(scratch<Scales>(static_cast<size_t>(m) * sizeof(float)));
  epilogue.row_scale = scales;
  const char* from = static_cast<const char*>(x.const_data_ptr());
  const int64_t bytes = row_stride(x) * item_size(types.in);
  const auto prepare = [&](int64_t row, void* prepared) {
    scales[row] = isa.prepare_quantized(types.in, from + row * bytes, k, prepared);
  };
  Driver(TorchThreads(), isa, m, n, k, bytes_of(packed), prepare, epilogue).run();
  return out;
}

void check_row_scale(const char* op, const Tensor& q, const Tensor& scale) {
  check_dtype(op, "scale", scale, ScalarType::Float);
  bool same = scale.dim() == q.dim() - 1;
  for (int64_t i = 0; same && i < scale.dim(); ++i) same = scale.size(i) == q.size(i);
  PYPROD_CHECK(same, op, ": scale must have the shape of q without its last dimension, got ", shape_text(scale));
  PYPROD_CHECK(scale.is_contiguous(), op, ": scale must be contiguous");
  check_same_device(op, "scale", scale, q);
}

Tensor linear_prequantized(const Tensor& q_in, const Tensor& scale, const Tensor& packed, int64_t n, int64_t k,
                           const Tensor& w_scale, const std::optional<Tensor>& bias,
                           const std::optional<StringArgument>& activation, const std::optional<Tensor>& residual_in,
                           std::optional<ScalarType> out_dtype) {
  constexpr const char* op = "int8_linear_prequantized";
  const Layer layer = {packed, n, k, w_scale, bias, activation, residual_in};
  const ScalarType dtype = out_dtype.value_or(ScalarType::Float);
  check_dtype(op, "q", q_in, ScalarType::Char);
  const Float type = check_float(op, "out_dtype", dtype);
  const Activation checked = check_layer(op, "q", q_in, layer, dtype);
  check_row_scale(op, q_in, scale);
  const int64_t m = rows_of(q_in);
  const Path& isa = path_for(m);
  const Tensor q = plain_rows(q_in);
  Tensor out = new_output(q, with_last(q, n), dtype);
  std::optional<Tensor> residual;
  Epilogue epilogue = epilogue_of(layer, checked, out, residual);
  epilogue.type = type;
  epilogue.row_scale = static_cast<const float*>(scale.const_data_ptr());
  const int8_t* from = static_cast<const int8_t*>(q.const_data_ptr());
  const int64_t stride = row_stride(q);
  const auto prepare = [&](int64_t row, void* prepared) { isa.prepare(from + row * stride, k, prepared); };
  Driver(TorchThreads(), isa, m, n, k, bytes_of(packed), prepare, epilogue).run();
  return out;
}

// 255 * 128 * k, the largest |sum of (x - zero point) * w|, must fit int32.
constexpr int64_t kMaxStaticK = INT32_MAX / (255 * 128);

bool is_byte(ScalarType type) { return type == ScalarType::Char || type == ScalarType::Byte; }

void check_quantization(const char* op, const char* scale_name, double scale, const char* zero_name, int64_t zero,
                        ScalarType type) {
  PYPROD_CHECK(scale >= FLT_MIN && scale <= FLT_MAX, op, ": ", scale_name, " must be positive, finite and normal, got ",
               scale);
  const int64_t low = type == ScalarType::Char ? -128 : 0;
  PYPROD_CHECK(zero >= low && zero <= low + 255, op, ": ", zero_name, " must be in [", low, ", ", low + 255, "] for ",
               dtype_name(type), ", got ", zero);
}

Tensor linear_static(const Tensor& x_in, double x_scale, int64_t x_zero_point, const Tensor& packed, int64_t n,
                     int64_t k, const Tensor& w_scale, const std::optional<Tensor>& bias,
                     const std::optional<StringArgument>& activation, const std::optional<Tensor>& residual_in,
                     std::optional<ScalarType> out_dtype, std::optional<double> out_scale, int64_t out_zero_point) {
  constexpr const char* op = "int8_linear_static";
  const Layer layer = {packed, n, k, w_scale, bias, activation, residual_in};
  const ScalarType in = x_in.scalar_type();
  PYPROD_CHECK(is_byte(in), op, ": x_q must be int8 or uint8, got ", dtype_name(in));
  check_quantization(op, "x_scale", x_scale, "x_zero_point", x_zero_point, in);
  const ScalarType dtype = out_dtype.value_or(out_scale.has_value() ? ScalarType::Char : ScalarType::Float);
  if (out_scale.has_value()) {
    PYPROD_CHECK(is_byte(dtype), op, ": out_dtype must be int8 or uint8 with out_scale, got ", dtype_name(dtype));
    check_quantization(op, "out_scale", *out_scale, "out_zero_point", out_zero_point, dtype);
  }
  const ScalarType floats = out_scale.has_value() ? ScalarType::Float : dtype;
  const Float type = check_float(op, "out_dtype", floats);
  const Activation checked = check_layer(op, "x_q", x_in, layer, floats);
  PYPROD_CHECK(k <= kMaxStaticK, op, ": k must be <= ", kMaxStaticK, ", got ", k);
  const int64_t m = rows_of(x_in);
  const Path& isa = path_for(m);
  const Tensor x = plain_rows(x_in);
  Tensor out = new_output(x, with_last(x, n), dtype);
  std::optional<Tensor> residual;
  Epilogue epilogue = epilogue_of(layer, checked, out, residual);
  epilogue.type = type;
  epilogue.scale = static_cast<float>(x_scale);
  epilogue.zero_point = static_cast<int32_t>(in == ScalarType::Byte ? x_zero_point - 128 : x_zero_point);
  if (out_scale.has_value()) {
    epilogue.store = dtype == ScalarType::Byte ? Store::uint8 : Store::int8;
    epilogue.out_inverse_scale = 1.0f / static_cast<float>(*out_scale);
    epilogue.out_zero_point = static_cast<int32_t>(out_zero_point);
  }
  const uint8_t* from = static_cast<const uint8_t*>(x.const_data_ptr());
  const int64_t stride = row_stride(x);
  const auto prepare = [&](int64_t row, void* prepared) {
    const uint8_t* bytes = from + row * stride;
    if (in == ScalarType::Byte) {
      isa.prepare_unsigned(bytes, k, prepared);
    } else {
      isa.prepare(reinterpret_cast<const int8_t*>(bytes), k, prepared);
    }
  };
  Driver(TorchThreads(), isa, m, n, k, bytes_of(packed), prepare, epilogue).run();
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def(
      "int8_linear(Tensor x, Tensor packed, int n, int k, Tensor w_scale, Tensor? bias=None, str? activation=None, "
      "Tensor? residual=None, ScalarType? out_dtype=None) -> Tensor");
  m.def(
      "int8_linear_prequantized(Tensor q, Tensor scale, Tensor packed, int n, int k, Tensor w_scale, "
      "Tensor? bias=None, str? activation=None, Tensor? residual=None, ScalarType? out_dtype=None) -> Tensor");
  m.def(
      "int8_linear_static(Tensor x_q, float x_scale, int x_zero_point, Tensor packed, int n, int k, Tensor w_scale, "
      "Tensor? bias=None, str? activation=None, Tensor? residual=None, ScalarType? out_dtype=None, "
      "float? out_scale=None, int out_zero_point=0) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) {
  m.impl("int8_linear", TORCH_BOX(&linear));
  m.impl("int8_linear_prequantized", TORCH_BOX(&linear_prequantized));
  m.impl("int8_linear_static", TORCH_BOX(&linear_static));
}

}  // namespace pyprod::int8_gemm
