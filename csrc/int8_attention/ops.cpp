// The ops of this family on the CPU: schemas, and the loop over heads.

#include "int8_attention/ops.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "common/isa.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "int8_gemm/driver.h"

namespace pyprod::int8_attention {
namespace {

const Attend& attend_for_isa() {
#if defined(__x86_64__)
  if (isa() >= Isa::avx512_vnni) return kAvx512;
  if (isa() >= Isa::avx2) return kAvx2;
#endif
  return kPortable;
}

// Multiply-adds that take about 2.5 us, softmax included: less is not worth another thread.
constexpr int64_t kGrain = 1 << 19;

void run(const Call& c, const std::optional<Tensor>& mask, const Mask& shared_mask, Tensor& out) {
  const int64_t item = item_size(c.type), width = c.q.heads * c.q.depth;
  const int8_gemm::Path& path = int8_gemm::path();
  const Attend& attend = attend_for_isa();
  const int64_t group = c.q.heads / c.k.heads;
  char* to = static_cast<char*>(out.mutable_data_ptr());
  // Both products, and a weight of the softmax, which takes as long as 16 multiply-adds.
  const int64_t work = group * c.q.tokens * c.k.tokens * (2 * c.q.depth + 16);
  const int64_t grain = int8_gemm::ceil_div(kGrain, std::max<int64_t>(1, work));
  parallel_for(0, c.q.batch * c.k.heads, grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t b = unit / c.k.heads, kv = unit % c.k.heads, h = kv * group;
      const auto rows = [&](const Part& p, int64_t head) {
        return Rows{p.data + (b * p.batch_stride + head * p.head_stride) * item, p.token_stride * item};
      };
      Head head{.q = rows(c.q, h),
                .q_head_stride = c.q.head_stride * item,
                .k = rows(c.k, kv),
                .v = rows(c.v, kv),
                .type = c.type,
                .group = group,
                .queries = c.q.tokens,
                .keys = c.k.tokens,
                .depth = c.q.depth,
                .scale = c.scale,
                .causal = c.causal,
                .mask = shared_mask,
                .out = to + (b * c.q.tokens * width + h * c.q.depth) * item,
                .out_stride = width * item};
      head.mask.head_stride = mask_stride(mask, 1);
      head.mask.query_stride = mask_stride(mask, 2);
      head.mask.key_stride = mask_stride(mask, 3);
      head.mask.data += (b * mask_stride(mask, 0) + h * head.mask.head_stride) * head.mask.item_size;
      attend.run(head, path, scratch(static_cast<size_t>(attend.scratch_bytes(head, path))));
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def(
      "int8_attention(Tensor q, Tensor k, Tensor v, Tensor? mask=None, bool causal=False, float? scale=None) -> "
      "Tensor");
  m.def(
      "int8_attention_packed(Tensor qkv, int heads, int kv_heads, Tensor? mask=None, bool causal=False, "
      "float? scale=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) { implement<&run>(m); }

}  // namespace pyprod::int8_attention
