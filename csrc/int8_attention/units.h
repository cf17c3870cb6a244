#pragma once

#include <algorithm>

#include "common/isa.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "int8_attention/ops.h"
#include "int8_gemm/driver.h"

// A call's units of work on the CPU, a key and value head of a sample each, and the instruction set that computes them.

namespace pyprod::int8_attention {

inline const Attend& attend_for_isa() {
#if defined(__x86_64__)
  if (isa() >= Isa::avx512_vnni) return kAvx512;
  if (isa() >= Isa::avx2) return kAvx2;
#endif
  return kPortable;
}

// Multiply-adds that take about 2.5 us, softmax included: less is not worth another thread.
inline constexpr int64_t kGrain = 1 << 19;

class Units {
 public:
  Units(const Call& call, const std::optional<Tensor>& mask, const Mask& checked, Tensor& out)
      : c_(call), shared_mask_(checked), out_(static_cast<char*>(out.mutable_data_ptr())) {
    for (int i = 0; i < 4; ++i) mask_strides_[i] = mask_stride(mask, i);
  }

  int64_t count() const { return c_.q.batch * c_.k.heads; }

  // Of a unit, in multiply-adds: both products, and a weight of the softmax, which takes as long as 16.
  int64_t work() const { return group_ * c_.q.tokens * c_.k.tokens * (2 * c_.q.depth + 16); }

  void run(int64_t unit) const {
    const int64_t b = unit / c_.k.heads, kv = unit % c_.k.heads, h = kv * group_;
    const int64_t width = c_.q.heads * c_.q.depth;
    Head head{.q = rows(c_.q, b, h),
              .q_head_stride = c_.q.head_stride * item_,
              .k = rows(c_.k, b, kv),
              .v = rows(c_.v, b, kv),
              .type = c_.type,
              .group = group_,
              .queries = c_.q.tokens,
              .keys = c_.k.tokens,
              .depth = c_.q.depth,
              .scale = c_.scale,
              .causal = c_.causal,
              .mask = shared_mask_,
              .out = out_ + (b * c_.q.tokens * width + h * c_.q.depth) * item_,
              .out_stride = width * item_};
    head.mask.head_stride = mask_strides_[1];
    head.mask.query_stride = mask_strides_[2];
    head.mask.key_stride = mask_strides_[3];
    head.mask.data += (b * mask_strides_[0] + h * mask_strides_[1]) * head.mask.item_size;
    attend_.run(head, path_, scratch(static_cast<size_t>(attend_.scratch_bytes(head, path_))));
  }

 private:
  const Call& c_;
  const Mask shared_mask_;
  char* const out_;
  const int8_gemm::Path& path_ = int8_gemm::path();
  const Attend& attend_ = attend_for_isa();
  const int64_t item_ = item_size(c_.type), group_ = c_.q.heads / c_.k.heads;
  int64_t mask_strides_[4];

  Rows rows(const Part& p, int64_t b, int64_t head) const {
    return {p.data + (b * p.batch_stride + head * p.head_stride) * item_, p.token_stride * item_};
  }
};

// All of them.
inline void run_units(const Call& call, const std::optional<Tensor>& mask, const Mask& checked, Tensor& out) {
  const Units units(call, mask, checked, out);
  const int64_t grain = int8_gemm::ceil_div(kGrain, std::max<int64_t>(1, units.work()));
  parallel_for(0, units.count(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) units.run(unit);
  });
}

}  // namespace pyprod::int8_attention
