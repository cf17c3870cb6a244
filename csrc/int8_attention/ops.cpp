// The ops of this family on the CPU: schemas, and what computes them.

#include <torch/csrc/stable/library.h>

#include "int8_attention/units.h"

namespace pyprod::int8_attention {

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def(
      "int8_attention(Tensor q, Tensor k, Tensor v, Tensor? mask=None, bool causal=False, float? scale=None) -> "
      "Tensor");
  m.def(
      "int8_attention_packed(Tensor qkv, int heads, int kv_heads, Tensor? mask=None, bool causal=False, "
      "float? scale=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) { implement<&run_units>(m); }

}  // namespace pyprod::int8_attention
