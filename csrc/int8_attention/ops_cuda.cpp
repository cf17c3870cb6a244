// The ops of this family on the GPU.

#include <torch/csrc/stable/library.h>

#include "common/cuda/ops.h"
#include "int8_attention/cuda.h"
#include "int8_attention/ops.h"

namespace pyprod::int8_attention {
namespace {

void run_cuda(const Call& c, const std::optional<Tensor>& mask, const Mask& checked, Tensor& out) {
  PYPROD_CHECK(c.q.depth <= kMostDepth, c.op, ": on CUDA a head must be at most ", kMostDepth, " deep, got ",
               c.q.depth);
  const OnDevice device(c.op, out);
  const int64_t item = item_size(c.type), units = c.q.batch * c.k.heads;
  const int64_t keys = padded_keys(c.k.tokens), depth = padded_depth(c.q.depth);
  Tensor key_codes = new_output(out, {units, keys, depth}, ScalarType::Char);
  Tensor value_codes = new_output(out, {units, depth, keys}, ScalarType::Char);
  Tensor scales = new_output(out, {units, keys + depth + 1}, ScalarType::Float);
  float* const numbers = static_cast<float*>(scales.mutable_data_ptr());
  const auto part = [item](const Part& p) {
    return CudaPart{p.data, p.batch_stride * item, p.head_stride * item, p.token_stride * item};
  };
  CudaAttention attention = {.q = part(c.q),
                             .k = part(c.k),
                             .v = part(c.v),
                             .type = c.type,
                             .batch = c.q.batch,
                             .heads = c.q.heads,
                             .kv_heads = c.k.heads,
                             .queries = c.q.tokens,
                             .keys = c.k.tokens,
                             .depth = c.q.depth,
                             .scale = c.scale,
                             .causal = c.causal,
                             .mask = checked,
                             .mask_batch_stride = mask_stride(mask, 0),
                             .out = out.mutable_data_ptr(),
                             .key_codes = static_cast<int8_t*>(key_codes.mutable_data_ptr()),
                             .key_scales = numbers,
                             .value_codes = static_cast<int8_t*>(value_codes.mutable_data_ptr()),
                             .value_scales = numbers + units * keys,
                             .largest_key_scale = numbers + units * (keys + depth)};
  attention.mask.head_stride = mask_stride(mask, 1);
  attention.mask.query_stride = mask_stride(mask, 2);
  attention.mask.key_stride = mask_stride(mask, 3);
  device.check(launch(attention, device.stream()));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyprod, CUDA, m) { implement<&run_cuda>(m); }

}  // namespace pyprod::int8_attention
