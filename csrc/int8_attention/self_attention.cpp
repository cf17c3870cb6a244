// A merged projection and the attention that reads it, on the CPU: a sample at a time, so that what its projection
// writes is still in L2 when attention reads it. (MiniLM, 8 texts of 128 tokens: 4.7 MB of queries, keys and values,
// 590 KB a text.)

#include <torch/csrc/stable/library.h>

#include "int8_attention/units.h"
#include "int8_gemm/linear_ops.h"

namespace pyprod::int8_attention {
namespace {

constexpr const char* kOp = "int8_self_attention";

struct Projected;  // purpose of scratch: a sample's queries, keys and values

// The driver's threads where the caller shares out samples among them.
struct OneThread {
  int64_t count() const { return 1; }
  template <class F>
  void run(int64_t begin, int64_t end, int64_t, const F& f) const {
    if (begin < end) f(begin, end);
  }
};

// Dense rows of activations that were quantized before, and the layer that projects them.
struct Projection {
  const int8_t* q;
  const float* scale;
  int64_t n, k;
  const int8_t* packed;
  int8_gemm::Epilogue epilogue;

  // Rows [first, first + count) into `to`.
  template <class Threads>
  void run(const Threads& threads, int64_t first, int64_t count, void* to) const {
    const int8_gemm::Path& path = int8_gemm::path_for(count);
    int8_gemm::Epilogue finish = epilogue;
    finish.row_scale = scale + first;
    finish.out = to;
    const auto prepare = [&](int64_t row, void* prepared) { path.prepare(q + (first + row) * k, k, prepared); };
    int8_gemm::Driver(threads, path, count, n, k, packed, prepare, finish).run();
  }
};

Tensor self_attention(const Tensor& q_in, const Tensor& scale, const Tensor& packed, int64_t n, int64_t k,
                      const Tensor& w_scale, const std::optional<Tensor>& bias, int64_t heads, int64_t kv_heads,
                      const std::optional<Tensor>& mask, bool causal, std::optional<double> softmax_scale) {
  const std::optional<StringArgument> no_activation;
  const std::optional<Tensor> no_residual;
  const int8_gemm::Layer layer = {packed, n, k, w_scale, bias, no_activation, no_residual};
  PYPROD_CHECK(q_in.dim() == 3, kOp, ": q must be [B, S, ", k, "], got ", shape_text(q_in));
  const int8_gemm::LinearTypes types = int8_gemm::check_prequantized(kOp, q_in, scale, layer, std::nullopt);
  const Heads all = {heads, kv_heads};
  check_heads(kOp, all);
  PYPROD_CHECK(n % all.count() == 0, kOp, ": n must be a multiple of heads + 2 kv_heads = ", all.count(), ", got ", n);
  const int64_t batch = q_in.size(0), tokens = q_in.size(1), depth = n / all.count();
  PYPROD_CHECK(tokens <= kMaxKeys, kOp, ": q must have at most ", kMaxKeys, " tokens, got ", tokens);
  const Tensor q = torch::stable::contiguous(q_in);
  Tensor out = new_output(q, {batch, tokens, heads * depth}, ScalarType::Float);
  const auto call_on = [&](const void* qkv, int64_t batch_stride) {
    return packed_call(kOp, qkv, Float::f32, all, batch, tokens, depth, batch_stride, n, causal, softmax_scale);
  };
  const Mask checked = check_mask(call_on(nullptr, 0), mask, q);
  if (out.numel() == 0) return out;
  std::optional<Tensor> residual;
  const Projection projection = {
      static_cast<const int8_t*>(q.const_data_ptr()),      static_cast<const float*>(scale.const_data_ptr()),  n, k,
      static_cast<const int8_t*>(packed.const_data_ptr()), int8_gemm::epilogue_of(layer, types, out, residual)};
  const int64_t threads = num_threads();
  if (batch % threads != 0 && batch < 4 * threads) {  // samples can't be shared out evenly
    Tensor qkv = new_output(q, {batch, tokens, n}, ScalarType::Float);
    projection.run(TorchThreads(), 0, batch * tokens, qkv.mutable_data_ptr());
    run_units(call_on(qkv.const_data_ptr(), tokens * n), mask, checked, out);
    return out;
  }
  const int64_t work = kv_heads * Units(call_on(nullptr, 0), mask, checked, out).work() + tokens * n * k;
  parallel_for(0, batch, int8_gemm::ceil_div(kGrain, work), [&](int64_t begin, int64_t end) {
    char* qkv = scratch<Projected>(static_cast<size_t>(tokens * n) * sizeof(float));
    const Call call = call_on(qkv, 0);
    const Units units(call, mask, checked, out);
    for (int64_t b = begin; b < end; ++b) {
      projection.run(OneThread(), b * tokens, tokens, qkv);
      for (int64_t kv = 0; kv < kv_heads; ++kv) units.run(b * kv_heads + kv);
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def(
      "int8_self_attention(Tensor q, Tensor scale, Tensor packed, int n, int k, Tensor w_scale, Tensor? bias, "
      "int heads, int kv_heads, Tensor? mask=None, bool causal=False, float? softmax_scale=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) { m.impl("int8_self_attention", TORCH_BOX(&self_attention)); }

}  // namespace pyprod::int8_attention
