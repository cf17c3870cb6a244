#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "int8_attention/head.h"
#include "int8_attention/loops.h"
#include "int8_attention/pack.h"

// Attention of one Head. A block of query rows at a time sees all keys: no running maximum has to be corrected, and
// what a block needs (32 rows x 512 keys: 64 KB of sums and of scores) stays in L2.
//
//     scores  = (q_int8 . k_int8) * (q_scale * k_scale * scale * u) + mask * u     u = 2048 log2 e
//     weight  = 2^((score - row maximum) / 2048) * 32639      an integer of 15 bits, kept as two signed bytes
//     out     = sum(weight * v_int8) * v_scale / sum(weight)
//
// Integer sums are exact, a maximum has no order, and the row is divided by the sum of the very integers it was
// weighted with: the bits don't depend on the instruction set, and weights add up to 1 exactly.

namespace pyprod::int8_attention {

using int8_gemm::ceil_div;

// mask * kScoreUnit of `keys` keys for one query; -infinity where it is false, and beyond the last key.
template <class From>
PYPROD_INLINE void additive_bias(const Mask& mask, const char* from, int64_t keys, float* bias) {
  const From* values = reinterpret_cast<const From*>(from);
  for (int64_t j = 0; j < keys; ++j) bias[j] = to_float(values[j * mask.key_stride]) * kScoreUnit;
}

// For the first `visible` keys; -infinity for the others, up to `padded`. False when one is NaN or +infinity.
PYPROD_INLINE bool mask_bias(const Mask& mask, int64_t head, int64_t query, int64_t visible, int64_t padded,
                             float* bias) {
  const char* from = mask.data + (head * mask.head_stride + query * mask.query_stride) * mask.item_size;
  if (mask.kind == MaskKind::none) {
    for (int64_t j = 0; j < visible; ++j) bias[j] = 0.0f;
  } else if (mask.kind == MaskKind::boolean) {
    for (int64_t j = 0; j < visible; ++j) bias[j] = from[j * mask.key_stride] != 0 ? 0.0f : -kInfinity;
  } else if (mask.type == Float::f32) {
    additive_bias<float>(mask, from, visible, bias);
  } else if (mask.type == Float::bf16) {
    additive_bias<BFloat16>(mask, from, visible, bias);
  } else {
    additive_bias<Float16>(mask, from, visible, bias);
  }
  for (int64_t j = visible; j < padded; ++j) bias[j] = -kInfinity;
  int bad = 0;
  for (int64_t j = 0; j < visible; ++j) bad |= !(bias[j] < kInfinity);
  return bad == 0;
}

template <class Out>
PYPROD_INLINE void write_some(const int32_t* high, const int32_t* low, float scale, const float* v_scale, int count,
                              Out* out) {
  for (int d = 0; d < count; ++d) {
    from_float((256.0f * static_cast<float>(high[d]) + static_cast<float>(low[d])) * (scale * v_scale[d]), out[d]);
  }
}

template <class Out>
PYPROD_INLINE void write_row(const int32_t* high, const int32_t* low, float scale, const float* v_scale, int count,
                             Out* out) {
  if (count == kPanel) return write_some(high, low, scale, v_scale, kPanel, out);  // no loop remainder
  write_some(high, low, scale, v_scale, count, out);
}

// What the block of rows is computed in; cut from one piece of scratch.
struct Buffers {
  int64_t depth, panels, value_keys;  // padded
  int64_t q_stride, weight_stride;    // bytes
  int8_t *keys, *values, *byte_rows;
  float *mean, *floats, *k_scale, *v_scale, *bias, *scores, *q_scale;
  char *q, *weights;
  int32_t* acc;
  bool as_bytes;  // prepared rows are bytes
  int64_t bytes;

  PYPROD_INLINE Buffers(const Head& h, const int8_gemm::Path& path, char* base) {
    // Tiles of AMX take int8 as they are, 64 k at once; a shorter rest of a panel is copied at every call.
    const int64_t unit = path.open != nullptr ? 64 : 4, rows = path.tile_rows;
    as_bytes = path.activation_bytes == 1;
    depth = ceil_div(h.depth, unit) * unit;
    panels = ceil_div(h.keys, kPanel);
    value_keys = ceil_div(h.keys, std::max<int64_t>(unit, kPanel)) * std::max<int64_t>(unit, kPanel);
    q_stride = ceil_div(depth * path.activation_bytes, 64) * 64;
    weight_stride = (ceil_div(value_keys * path.activation_bytes, 64) | 1) * 64;
    bytes = 0;
    const auto take = [&](int64_t size) {
      char* at = base + bytes;
      bytes += ceil_div(size, 64) * 64;
      return at;
    };
    keys = reinterpret_cast<int8_t*>(take(panels * int8_gemm::panel_bytes(depth)));
    values = reinterpret_cast<int8_t*>(take(ceil_div(h.depth, kPanel) * int8_gemm::panel_bytes(value_keys)));
    byte_rows = reinterpret_cast<int8_t*>(take(std::max(as_bytes ? 0 : 2 * rows * value_keys, kPanel * depth)));
    mean = reinterpret_cast<float*>(take(h.depth * 4));
    floats = reinterpret_cast<float*>(take(kPanel * h.depth * 4));
    k_scale = reinterpret_cast<float*>(take(panels * kPanel * 4));
    v_scale = reinterpret_cast<float*>(take(ceil_div(h.depth, kPanel) * kPanel * 4));
    bias = reinterpret_cast<float*>(take(rows * panels * kPanel * 4));
    scores = reinterpret_cast<float*>(take(rows * panels * kPanel * 4));
    q_scale = reinterpret_cast<float*>(take(rows * 4));
    q = take(rows * q_stride);
    weights = take(2 * rows * weight_stride);
    acc = reinterpret_cast<int32_t*>(take(std::max<int64_t>(panels, 2) * rows * kPanel * 4));
  }
};

// What all rows of a unit have in common.
struct Shared {
  bool bias;        // one row of it for all queries
  bool finite;      // that row holds neither NaN nor +infinity
  float score_top;  // what a score without mask is at most, over the scale of its query; NaN when a key has no scale
};

// Rows [first, first + rows) of the unit: row r is token r % queries of query head r / queries.
template <class Loops>
class Block {
 public:
  PYPROD_INLINE Block(const Head& h, const int8_gemm::Path& path, const Buffers& b, const Shared& shared, int64_t first,
                      int rows)
      : h_(h), path_(path), b_(b), shared_(shared), rows_(rows) {
    int64_t head = first / h.queries, token = first % h.queries;
    for (int r = 0; r < rows; ++r) {
      token_[r] = token;
      head_[r] = head;
      if (++token == h.queries) token = 0, ++head;
    }
  }

  // Passes over all rows: what one row waits for, the others don't.
  PYPROD_INLINE void run() {
    prepare_rows();
    multiply_keys();
    score();
    weigh();
    mix();
  }

 private:
  const Head& h_;
  const int8_gemm::Path& path_;
  const Buffers& b_;
  const Shared& shared_;
  const int rows_;
  int64_t visible_ = 0;  // keys that some row sees
  int64_t token_[int8_gemm::kMaxTileRows], head_[int8_gemm::kMaxTileRows];
  bool finite_[int8_gemm::kMaxTileRows];
  float top_[int8_gemm::kMaxTileRows];      // a row's largest score
  float inverse_[int8_gemm::kMaxTileRows];  // 1 / sum of a row's weights

  PYPROD_INLINE int64_t width() const { return b_.panels * kPanel; }
  PYPROD_INLINE void prepare_rows() {
    const float* x[int8_gemm::kMaxTileRows];
    for (int r = 0; r < rows_; ++r) {
      x[r] = floats(h_.type, h_.q.row(token_[r]) + head_[r] * h_.q_head_stride, h_.depth, b_.floats + r * h_.depth);
    }
    int8_t* q = b_.as_bytes ? reinterpret_cast<int8_t*>(b_.q) : b_.byte_rows;
    const int64_t stride = b_.as_bytes ? b_.q_stride : b_.depth;
    Loops::quantize_rows(x, rows_, h_.depth, path_.flip, q, stride, b_.q_scale);
    for (int r = 0; r < rows_; ++r) {
      if (!b_.as_bytes) path_.prepare(q + r * stride, h_.depth, b_.q + r * b_.q_stride);
      b_.q_scale[r] *= h_.scale * kScoreUnit;
      const int64_t seen = h_.causal ? std::min(h_.keys, token_[r] + 1) : h_.keys;
      const bool bias =
          shared_.bias ? shared_.finite : mask_bias(h_.mask, head_[r], token_[r], seen, width(), b_.bias + r * width());
      finite_[r] = bias && std::abs(b_.q_scale[r]) * shared_.score_top < kInfinity;
      visible_ = std::max(visible_, seen);
    }
  }

  PYPROD_INLINE int64_t visible_panels() const { return ceil_div(visible_, kPanel); }

  PYPROD_INLINE void multiply_keys() {
    const int64_t panel = int8_gemm::panel_bytes(b_.depth);
    for (int64_t p = 0; p < visible_panels(); ++p) {
      path_.tile(rows_, b_.q, b_.q_stride, b_.keys + p * panel, b_.depth, b_.acc + p * rows_ * kPanel);
    }
  }

  PYPROD_INLINE void score() {
    Loops::score({rows_, visible_panels(), b_.acc, b_.q_scale, b_.k_scale, b_.bias, shared_.bias ? 0 : width(),
                  b_.scores, width(), top_});
  }

  // A row that sees no key has weights 0 and gives 0; one that is not finite gives NaN.
  PYPROD_INLINE void weigh() {
    const int64_t count = visible_panels() * kPanel, half = rows_ * b_.weight_stride;
    int8_t* high = b_.as_bytes ? reinterpret_cast<int8_t*>(b_.weights) : b_.byte_rows;
    const int64_t stride = b_.as_bytes ? b_.weight_stride : b_.value_keys;
    int8_t* low = high + rows_ * stride;
    int32_t sum[int8_gemm::kMaxTileRows];
    Loops::weigh({rows_, count, b_.scores, width(), top_, path_.flip, high, low, stride, sum});
    for (int r = 0; r < rows_; ++r) {
      const float inverse = sum[r] > 0 ? 1.0f / static_cast<float>(sum[r]) : 0.0f;
      inverse_[r] = finite_[r] ? inverse : std::numeric_limits<float>::quiet_NaN();
    }
    if (count < b_.value_keys) {
      for (int r = 0; r < 2 * rows_; ++r) {  // the rows of low follow those of high
        std::memset(high + r * stride + count, path_.flip, static_cast<size_t>(b_.value_keys - count));
      }
    }
    if (b_.as_bytes) return;
    for (int r = 0; r < rows_; ++r) {
      path_.prepare(high + r * stride, b_.value_keys, b_.weights + r * b_.weight_stride);
      path_.prepare(low + r * stride, b_.value_keys, b_.weights + half + r * b_.weight_stride);
    }
  }

  PYPROD_INLINE void mix() {
    const int64_t panel = int8_gemm::panel_bytes(b_.value_keys), half = rows_ * b_.weight_stride;
    int32_t* low = b_.acc + rows_ * kPanel;
    for (int64_t d = 0; d < h_.depth; d += kPanel) {
      const int8_t* values = b_.values + d / kPanel * panel;
      path_.tile(rows_, b_.weights, b_.weight_stride, values, b_.value_keys, b_.acc);
      path_.tile(rows_, b_.weights + half, b_.weight_stride, values, b_.value_keys, low);
      const int count = static_cast<int>(std::min<int64_t>(kPanel, h_.depth - d));
      for (int r = 0; r < rows_; ++r) write(r, b_.acc + r * kPanel, low + r * kPanel, d, count);
    }
  }

  PYPROD_INLINE void write(int r, const int32_t* high, const int32_t* low, int64_t d, int count) {
    const int64_t at = head_[r] * h_.depth + d;
    char* row = h_.out + token_[r] * h_.out_stride;
    const float* v_scale = b_.v_scale + d;
    switch (h_.type) {
      case Float::f32:
        return write_row(high, low, inverse_[r], v_scale, count, reinterpret_cast<float*>(row) + at);
      case Float::bf16:
        return write_row(high, low, inverse_[r], v_scale, count, reinterpret_cast<BFloat16*>(row) + at);
      case Float::f16:
        return write_row(high, low, inverse_[r], v_scale, count, reinterpret_cast<Float16*>(row) + at);
    }
  }
};

template <class Loops>
PYPROD_INLINE void attend(const Head& h, const int8_gemm::Path& path, char* scratch) {
  const Buffers b(h, path, scratch);
  std::memset(b.byte_rows, 0, static_cast<size_t>(kPanel * b.depth));
  const bool compensate = path.flip != 0;
  pack_keys<Loops>(h.k, h.type, h.keys, h.depth, b.depth, compensate, b.mean, {b.floats, b.byte_rows}, b.keys,
                   b.k_scale);
  if (compensate) {
    pack_values<true>(h.v, h.type, h.keys, h.depth, b.value_keys, b.values, b.v_scale);
  } else {
    pack_values<false>(h.v, h.type, h.keys, h.depth, b.value_keys, b.values, b.v_scale);
  }
  std::memset(b.q, 0, static_cast<size_t>(path.tile_rows * b.q_stride));
  Shared shared{!h.causal && h.mask.head_stride == 0 && h.mask.query_stride == 0, true, 0.0f};
  if (shared.bias) shared.finite = mask_bias(h.mask, 0, 0, h.keys, b.panels * kPanel, b.bias);
  int32_t k_scale_top = 0;
  for (int64_t t = 0; t < h.keys; ++t) k_scale_top = std::max(k_scale_top, magnitude_bits(b.k_scale[t]));
  shared.score_top = std::bit_cast<float>(k_scale_top) * (127.0f * 127.0f * static_cast<float>(h.depth));
  const int8_gemm::TileScope scope(path);
  const int64_t total = h.group * h.queries, blocks = ceil_div(total, path.tile_rows);
  for (int64_t i = 0; i < blocks; ++i) {  // of even height: a last block of one row would waste a whole tile
    const int64_t first = i * total / blocks;
    Block<Loops>(h, path, b, shared, first, static_cast<int>((i + 1) * total / blocks - first)).run();
  }
}

}  // namespace pyprod::int8_attention
