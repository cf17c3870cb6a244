#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "common/checks.h"
#include "common/output.h"
#include "int8_attention/head.h"

// The ops of this family on any device, int8_attention and the same on the output of a merged projection: checks, and
// results. What computes them is given.

namespace pyprod::int8_attention {

inline constexpr int64_t kMaxKeys = 1 << 16;  // a sum of weights, each below 2^15, must fit int32

// [batch, heads, tokens, depth] of a tensor or of a part of one; strides in elements.
struct Part {
  const char* data;
  int64_t batch, heads, tokens, depth;
  int64_t batch_stride, head_stride, token_stride;
};

// What both ops come down to.
struct Call {
  const char* op;
  Part q, k, v;
  Float type;
  float scale;
  bool causal;
};

inline Mask check_mask(const Call& c, const std::optional<Tensor>& mask, const Tensor& first) {
  Mask m;
  if (!mask.has_value()) return m;
  check_same_device(c.op, "mask", *mask, first);
  const bool boolean = mask->scalar_type() == ScalarType::Bool;
  m.kind = boolean ? MaskKind::boolean : MaskKind::additive;
  if (!boolean) m.type = check_float(c.op, "mask, where it is not bool,", mask->scalar_type());
  m.item_size = boolean ? 1 : item_size(m.type);
  const int64_t want[] = {c.q.batch, c.q.heads, c.q.tokens, c.k.tokens};
  bool fits = mask->dim() <= 4;
  for (int64_t i = 0; fits && i < mask->dim(); ++i) {
    const int64_t size = mask->size(mask->dim() - 1 - i);
    fits = size == 1 || size == want[3 - i];
  }
  PYPROD_CHECK(fits, c.op, ": mask must broadcast to [", want[0], ", ", want[1], ", ", want[2], ", ", want[3],
               "], got ", shape_text(*mask));
  m.data = static_cast<const char*>(mask->const_data_ptr());
  return m;
}

// Elements between neighbors of the mask along dimension i of [batch, heads, queries, keys]; 0 where it is broadcast.
inline int64_t mask_stride(const std::optional<Tensor>& mask, int64_t i) {
  const int64_t at = mask.has_value() ? mask->dim() - 4 + i : -1;
  return at < 0 || mask->size(at) == 1 ? 0 : mask->stride(at);
}

// `checked` is what check_mask() made of `mask`. There is at least one query and one key.
using Run = void (*)(const Call& call, const std::optional<Tensor>& mask, const Mask& checked, Tensor& out);

template <Run kRun>
Tensor checked(const Call& c, const std::optional<Tensor>& mask, const Tensor& first) {
  const Mask shared_mask = check_mask(c, mask, first);
  Tensor out = new_output(first, {c.q.batch, c.q.tokens, c.q.heads * c.q.depth}, first.scalar_type());
  if (out.numel() == 0) return out;
  if (c.k.tokens == 0) return torch::stable::zero_(out);
  kRun(c, mask, shared_mask, out);
  return out;
}

inline float score_scale(std::optional<double> scale, int64_t depth) {
  return static_cast<float>(scale.value_or(1.0 / std::sqrt(static_cast<double>(depth))));
}

inline Tensor dense_depth(const Tensor& t) {
  return t.size(3) <= 1 || t.stride(3) == 1 ? t : torch::stable::contiguous(t);
}

inline Part part(const Tensor& t) {
  return {static_cast<const char*>(t.const_data_ptr()),
          t.size(0),
          t.size(1),
          t.size(2),
          t.size(3),
          t.stride(0),
          t.stride(1),
          t.stride(2)};
}

template <Run kRun>
Tensor attention(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const std::optional<Tensor>& mask,
                 bool causal, std::optional<double> scale) {
  constexpr const char* op = "int8_attention";
  PYPROD_CHECK(q_in.dim() == 4, op, ": q must be [B, H, S, D], got ", shape_text(q_in));
  const Float type = check_float(op, "q", q_in.scalar_type());
  for (const auto& [name, t] : {std::pair{"k", &k_in}, {"v", &v_in}}) {
    check_dtype(op, name, *t, q_in.scalar_type());
    check_same_device(op, name, *t, q_in);
    PYPROD_CHECK(t->dim() == 4 && t->size(0) == q_in.size(0) && t->size(3) == q_in.size(3), op, ": ", name,
                 " must be [", q_in.size(0), ", KV, T, ", q_in.size(3), "], got ", shape_text(*t));
  }
  const int64_t kv = k_in.size(1);
  PYPROD_CHECK(kv > 0 && q_in.size(1) % kv == 0, op, ": heads of q must be a multiple of those of k, got ",
               q_in.size(1), " and ", kv);
  PYPROD_CHECK(v_in.size(1) == kv && v_in.size(2) == k_in.size(2), op, ": v must be shaped like k, ", shape_text(k_in),
               ", got ", shape_text(v_in));
  PYPROD_CHECK(k_in.size(2) <= kMaxKeys, op, ": k must have at most ", kMaxKeys, " tokens, got ", k_in.size(2));
  const Tensor q = dense_depth(q_in), k = dense_depth(k_in), v = dense_depth(v_in);
  return checked<kRun>({op, part(q), part(k), part(v), type, score_scale(scale, q.size(3)), causal}, mask, q);
}

// Heads side by side, all of q, then of k, then of v: how the rows of a merged projection lie.
struct Heads {
  int64_t heads, kv_heads;
  int64_t count() const { return heads + 2 * kv_heads; }
};

inline void check_heads(const char* op, const Heads& h) {
  PYPROD_CHECK(h.kv_heads > 0 && h.heads > 0 && h.heads % h.kv_heads == 0, op,
               ": heads must be a multiple of kv_heads, both positive, got ", h.heads, " and ", h.kv_heads);
}

// The call that reads q, k and v from `data`, [batch, tokens, heads.count() * depth] by strides in elements; null: a
// call of its sizes alone.
inline Call packed_call(const char* op, const void* data, Float type, const Heads& heads, int64_t batch, int64_t tokens,
                        int64_t depth, int64_t batch_stride, int64_t token_stride, bool causal,
                        std::optional<double> scale) {
  const auto piece = [&](int64_t first, int64_t count) {
    const char* from = static_cast<const char*>(data);
    if (from != nullptr) from += first * depth * item_size(type);
    return Part{from, batch, count, tokens, depth, batch_stride, depth, token_stride};
  };
  const Part q = piece(0, heads.heads), k = piece(heads.heads, heads.kv_heads);
  const Part v = piece(heads.heads + heads.kv_heads, heads.kv_heads);
  return {op, q, k, v, type, score_scale(scale, depth), causal};
}

template <Run kRun>
Tensor attention_packed(const Tensor& qkv_in, int64_t heads, int64_t kv_heads, const std::optional<Tensor>& mask,
                        bool causal, std::optional<double> scale) {
  constexpr const char* op = "int8_attention_packed";
  PYPROD_CHECK(qkv_in.dim() == 3, op, ": qkv must be [B, S, (heads + 2 kv_heads) D], got ", shape_text(qkv_in));
  const Float type = check_float(op, "qkv", qkv_in.scalar_type());
  const Heads all = {heads, kv_heads};
  check_heads(op, all);
  PYPROD_CHECK(qkv_in.size(2) % all.count() == 0, op,
               ": the last size of qkv must be a multiple of heads + 2 kv_heads = ", all.count(), ", got ",
               qkv_in.size(2));
  PYPROD_CHECK(qkv_in.size(1) <= kMaxKeys, op, ": qkv must have at most ", kMaxKeys, " tokens, got ", qkv_in.size(1));
  const Tensor qkv = qkv_in.size(2) <= 1 || qkv_in.stride(2) == 1 ? qkv_in : torch::stable::contiguous(qkv_in);
  const Call call = packed_call(op, qkv.const_data_ptr(), type, all, qkv.size(0), qkv.size(1),
                                qkv.size(2) / all.count(), qkv.stride(0), qkv.stride(1), causal, scale);
  return checked<kRun>(call, mask, qkv);
}

// Registers the ops for the device that kRun is for.
template <Run kRun, class Library>
void implement(Library& m) {
  m.impl("int8_attention", TORCH_BOX(&attention<kRun>));
  m.impl("int8_attention_packed", TORCH_BOX(&attention_packed<kRun>));
}

}  // namespace pyprod::int8_attention
