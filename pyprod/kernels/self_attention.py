"""int8_self_attention: a merged projection and the attention that reads it, a sample at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake, refuse_gradient
from pyprod.kernels.attention import int8_attention_reference
from pyprod.kernels.gemm import PackedWeight
from pyprod.kernels.linear_prequantized import int8_linear_prequantized_reference

__all__ = ["int8_self_attention", "int8_self_attention_cost", "int8_self_attention_reference"]


def int8_self_attention(
    q: Tensor,
    scale: Tensor,
    packed: PackedWeight,
    w_scale: Tensor,
    bias: Tensor | None,
    heads: int,
    kv_heads: int,
    mask: Tensor | None = None,
    causal: bool = False,
    softmax_scale: float | None = None,
) -> Tensor:
    """``int8_attention_packed(int8_linear_prequantized(q, scale, packed, w_scale, bias), heads, kv_heads, ...)``.

    The same bits, without all of the batch's queries, keys and values in memory: a sample's are read while they are in
    the core's cache. CPU.

    Args:
        q: int8 ``[B, S, K]``, any strides.
        scale: float32 ``[B, S]``, contiguous: one scale per row of q.
        packed: int8 weight ``[(heads + 2 * kv_heads) * D, K]``: all heads of q, then of k, then of v.
        w_scale: float32, contiguous, one per row of the weight.
        bias: the same, or None.
        mask, causal: as `int8_attention` takes them.
        softmax_scale: of the scores; None: ``1 / sqrt(D)``.

    Returns:
        float32 ``[B, S, heads * D]``, contiguous.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape or device, or needs a gradient; the message names it.
    """
    refuse_gradient("int8_self_attention", scale, bias, mask)
    layer = (packed.data, packed.n, packed.k, w_scale, bias)
    out: Tensor = torch.ops.pyprod.int8_self_attention.default(
        q, scale, *layer, heads, kv_heads, mask, causal, softmax_scale
    )
    return out


def int8_self_attention_reference(
    q: Tensor,
    scale: Tensor,
    w_q: Tensor,
    w_scale: Tensor,
    bias: Tensor | None,
    heads: int,
    kv_heads: int,
    mask: Tensor | None = None,
    causal: bool = False,
    softmax_scale: float | None = None,
) -> Tensor:
    """The references of both, one after the other."""
    qkv = int8_linear_prequantized_reference(q, scale, w_q, w_scale, bias)
    depth = qkv.shape[-1] // (heads + 2 * kv_heads)
    all_heads = qkv.reshape(*qkv.shape[:2], -1, depth).transpose(1, 2)
    query, key, value = torch.split(all_heads, [heads, kv_heads, kv_heads], 1)
    return int8_attention_reference(query, key, value, mask, causal, softmax_scale)


def int8_self_attention_cost(b: int, s: int, k: int, heads: int, kv_heads: int, d: int) -> Cost:
    """Cost for q ``[b, s, k]`` and heads of d channels, without a mask: nothing between the two is counted as bytes."""
    n = (heads + 2 * kv_heads) * d
    return Cost(
        ops=2 * b * s * n * k + 4 * b * heads * s * s * d, bytes=b * s * (k + 4) + n * k + 8 * n + 4 * b * s * heads * d
    )


@fake("int8_self_attention")
def _fake(
    q: Tensor,
    scale: Tensor,
    packed: Tensor,
    n: int,
    k: int,
    w_scale: Tensor,
    bias: Tensor | None,
    heads: int,
    kv_heads: int,
    mask: Tensor | None = None,
    causal: bool = False,
    softmax_scale: float | None = None,
) -> Tensor:
    b, s, width = q.shape
    if width != k:
        raise RuntimeError(f"int8_self_attention: q must be [B, S, {k}], got {list(q.shape)}")
    return q.new_empty((b, s, n // (heads + 2 * kv_heads) * heads), dtype=torch.float32)
