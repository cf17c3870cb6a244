// pyprod::Int8Linear: torch.ops.pyprod.int8_linear for ONNX Runtime, bit for bit the same.

#include "onnxruntime/int8_linear.h"

#include <memory>

#include "common/scratch.h"
#include "int8_gemm/driver.h"
#include "onnxruntime/threads.h"

namespace pyprod::onnxruntime {
namespace {

using int8_gemm::ceil_div;
using int8_gemm::kPanel;

constexpr const char* kInputs[] = {"x", "packed", "w_scale", "bias"};

std::string text(const std::vector<int64_t>& sizes) {
  std::string out = "[";
  for (size_t i = 0; i < sizes.size(); ++i) out += (i > 0 ? ", " : "") + std::to_string(sizes[i]);
  return out + "]";
}

void need(const Tensor& tensor, int index, const std::vector<int64_t>& sizes) {
  if (tensor.sizes == sizes) return;
  throw std::runtime_error("Int8Linear: " + std::string(kInputs[index]) + " must be " + text(sizes) + ", got " +
                           text(tensor.sizes));
}

struct Kernel {
  const Table* table;
  Activation activation;
  bool asymmetric;

  void compute(KernelContext* context) const {
    const Tensor x = input(table, context, 0), packed = input(table, context, 1), w_scale = input(table, context, 2),
                 bias = input(table, context, 3);
    if (x.sizes.empty()) throw std::runtime_error("Int8Linear: x must be [..., K], got a scalar");
    if (w_scale.sizes.size() != 1) throw std::runtime_error("Int8Linear: w_scale must be [N]");
    const int64_t k = x.sizes.back(), n = w_scale.sizes[0];
    if (asymmetric && k > int8_gemm::kMaxShiftedK)
      throw std::runtime_error("Int8Linear: asymmetric takes K <= " + std::to_string(int8_gemm::kMaxShiftedK));
    if (k > int8_gemm::kMaxK) throw std::runtime_error("Int8Linear: K must be <= " + std::to_string(int8_gemm::kMaxK));
    need(packed, 1, {ceil_div(n, kPanel), 1 + ceil_div(k, 4), kPanel, 4});
    if (bias.data != nullptr) need(bias, 3, {n});
    int64_t m = 1;
    for (size_t i = 0; i + 1 < x.sizes.size(); ++i) m *= x.sizes[i];
    std::vector<int64_t> sizes = x.sizes;
    sizes.back() = n;
    Value* out = nullptr;
    check(table, GetOutput::call(table, context, 0, sizes.data(), sizes.size(), &out));
    void* to = nullptr;
    check(table, GetData::call(table, out, &to));
    multiply(Threads(table, context), m, n, k, x, packed, w_scale, bias, to);
  }

  void multiply(const Threads& threads, int64_t m, int64_t n, int64_t k, const Tensor& x, const Tensor& packed,
                const Tensor& w_scale, const Tensor& bias, void* out) const {
    int8_gemm::Epilogue epilogue;
    epilogue.col_scale = static_cast<const float*>(w_scale.data);
    epilogue.bias = static_cast<const float*>(bias.data);
    epilogue.activation = activation;
    epilogue.out = out;
    epilogue.out_stride = n;
    const int64_t stride = k * static_cast<int64_t>(sizeof(float));
    const int8_gemm::FloatRows rows = {Float::f32, x.data, stride, nullptr, asymmetric};
    int8_gemm::run_quantized(threads, rows, m, n, k, static_cast<const int8_t*>(packed.data), epilogue);
  }
};

// Files from before there was a choice do not say: symmetric.
bool asymmetric_of(const Table* table, const KernelInfo* info) {
  char name[16] = "symmetric";
  size_t length = sizeof name;
  if (Status* unsaid = GetStringAttribute::call(table, info, "quantization", name, &length)) {
    ReleaseStatus::call(table, unsaid);
    return false;
  }
  const std::string named = name;
  if (named == "symmetric" || named == "asymmetric") return named == "asymmetric";
  throw std::runtime_error("Int8Linear: quantization must be symmetric or asymmetric, got " + named);
}

Activation activation_of(const Table* table, const KernelInfo* info) {
  char name[16] = "";
  size_t length = sizeof name;
  check(table, GetStringAttribute::call(table, info, "activation", name, &length));
  const std::string named = name;
  if (named == "none") return Activation::none;
  if (named == "relu") return Activation::relu;
  if (named == "gelu") return Activation::gelu;
  if (named == "gelu_tanh") return Activation::gelu_tanh;
  if (named == "silu") return Activation::silu;
  throw std::runtime_error("Int8Linear: activation must be none, relu, gelu, gelu_tanh or silu, got " + named);
}

// The shape of x, with the last size that of w_scale; sizes that are not known yet keep their names.
void infer_shape(const Table* table, ShapeContext* context) {
  TypeAndShape *x = nullptr, *w_scale = nullptr;
  check(table, GetInputShape::call(table, context, 0, &x));
  check(table, GetInputShape::call(table, context, 2, &w_scale));
  size_t rank = 0, vector = 0;
  check(table, GetRank::call(table, x, &rank));
  check(table, GetRank::call(table, w_scale, &vector));
  if (rank == 0 || vector != 1) return;  // not known; or wrong, which the call will say
  std::vector<int64_t> sizes(rank);
  std::vector<const char*> names(rank);
  check(table, GetSizes::call(table, x, sizes.data(), rank));
  check(table, GetSizeNames::call(table, x, names.data(), rank));
  check(table, GetSizes::call(table, w_scale, &sizes.back(), 1));
  check(table, GetSizeNames::call(table, w_scale, &names.back(), 1));
  TypeAndShape* out = nullptr;
  check(table, CreateTypeAndShape::call(table, &out));
  Status* failed = SetElementType::call(table, out, ElementType::f32);
  if (failed == nullptr) failed = SetSizes::call(table, out, sizes.data(), rank);
  if (failed == nullptr) failed = SetSizeNames::call(table, out, names.data(), rank);
  if (failed == nullptr) failed = SetOutputShape::call(table, context, 0, out);
  ReleaseTypeAndShape::call(table, out);
  check(table, failed);
}

Status* create(const CustomOp*, const Table* table, const KernelInfo* info, void** kernel) {
  return guarded(table, [&] { *kernel = new Kernel{table, activation_of(table, info), asymmetric_of(table, info)}; });
}

Status* compute(void* kernel, KernelContext* context) {
  const Kernel& self = *static_cast<const Kernel*>(kernel);
  return guarded(self.table, [&] { self.compute(context); });
}

// As ONNX Runtime asks for shapes without passing its table.
struct Op : CustomOp {
  const Table* table;
};

Op describe(const Table* table) {
  Op op = {};
  op.table = table;
  op.version = kVersion;
  op.name = [](const CustomOp*) { return "Int8Linear"; };
  op.provider = [](const CustomOp*) { return "CPUExecutionProvider"; };
  op.input_count = [](const CustomOp*) { return std::size(kInputs); };
  op.input_type = [](const CustomOp*, size_t index) { return index == 1 ? ElementType::i8 : ElementType::f32; };
  op.input_presence = [](const CustomOp*, size_t index) {
    return index == 3 ? Presence::optional : Presence::required;
  };
  op.input_memory = [](const CustomOp*, size_t) { return 0; };
  op.output_count = [](const CustomOp*) { return size_t{1}; };
  op.output_type = [](const CustomOp*, size_t) { return ElementType::f32; };
  op.output_presence = [](const CustomOp*, size_t) { return Presence::required; };
  op.create_kernel_checked = create;
  op.compute_checked = compute;
  op.infer_shape = [](const CustomOp* self, ShapeContext* context) {
    const Table* known = static_cast<const Op*>(self)->table;
    return guarded(known, [&] { infer_shape(known, context); });
  };
  op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.start_version = [](const CustomOp*) { return 1; };
  op.end_version = [](const CustomOp*) { return INT32_MAX; };
  return op;
}

}  // namespace

const CustomOp& int8_linear(const Table* table) {
  static const Op op = describe(table);
  return op;
}

}  // namespace pyprod::onnxruntime
