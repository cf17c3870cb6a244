#pragma once

#include <cstdint>

#include "common/float_types.h"
#include "int8_gemm/path.h"

namespace pyprod::int8_attention {

// A [tokens, depth] matrix of floats whose rows are dense.
struct Rows {
  const char* data = nullptr;
  int64_t stride = 0;  // bytes from one token to the next

  const char* row(int64_t token) const { return data + token * stride; }
};

enum class MaskKind : int { none, boolean, additive };

// An attention mask, by element strides; one that is broadcast has stride 0.
struct Mask {
  MaskKind kind = MaskKind::none;
  const char* data = nullptr;
  Float type = Float::f32;  // of an additive one
  int64_t item_size = 1;
  int64_t head_stride = 0, query_stride = 0, key_stride = 0;
};

// One key and value head with the `group` query heads that share it: a unit of work.
struct Head {
  Rows q;                 // of the first query head
  int64_t q_head_stride;  // bytes from one query head to the next
  Rows k, v;
  Float type;
  int64_t group, queries, keys, depth;
  float scale;  // of the scores
  bool causal;
  Mask mask;           // at the first query head
  char* out;           // [queries, group, depth] of `type`
  int64_t out_stride;  // bytes from one token to the next
};

// One instruction set's way to compute a Head. Matrix products go through a path of int8_gemm, all else is compiled
// for the instruction set from attend.h.
struct Attend {
  int64_t (*scratch_bytes)(const Head& head, const int8_gemm::Path& path);
  void (*run)(const Head& head, const int8_gemm::Path& path, char* scratch);
};

extern const Attend kPortable;
#if defined(__x86_64__)
extern const Attend kAvx2;
extern const Attend kAvx512;
#endif

}  // namespace pyprod::int8_attention
