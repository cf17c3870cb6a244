"""int8_attention: attention whose two matrix products are computed in INT8."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake, refuse_gradient
from pyprod.kernels.quantize import quantize_per_token_reference

__all__ = [
    "int8_attention",
    "int8_attention_cost",
    "int8_attention_packed",
    "int8_attention_reference",
]

TOP_WEIGHT = 32639  # 127 * 256 + 127: csrc/int8_attention/attend.h


def int8_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """``softmax(q @ k.T * scale + mask) @ v`` per head, its heads side by side: what the output projection reads.

    Queries and keys are quantized per token, keys less their mean, which softmax does not see (SageAttention,
    arXiv 2410.02367), values per channel of a head, weights to 15 bits; softmax is float32. Every instruction set,
    any number of threads and CUDA give the same bits, and a batch those of its samples. Inference only.

    Args:
        q: ``[B, H, S, D]``, float32, bfloat16 or float16; D <= 128 on CUDA; any strides (dense along D: no copy).
        k: ``[B, KV, T, D]`` of the same dtype; H a multiple of KV: query head h reads key head ``h // (H / KV)``.
        v: shaped like k.
        mask: broadcast to ``[B, H, S, T]``; bool (False: not seen) or a float that is added to the scores.
        causal: token i sees keys 0 to i alone, on top of the mask.
        scale: of the scores; None: ``1 / sqrt(D)``.

    Returns:
        ``[B, S, H * D]`` of q's dtype, contiguous; zeros for a query that sees no key. NaN or infinity in a query gives
        NaN in its row, in a key in all rows of the head, in a value in its channel.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape or device, or needs a gradient; the message names it.
    """
    refuse_gradient("int8_attention", q, k, v, mask)
    out: Tensor = torch.ops.pyprod.int8_attention.default(q, k, v, mask, causal, scale)
    return out


def int8_attention_packed(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """`int8_attention` on the output of a merged projection, read in place.

    Args:
        qkv: ``[B, S, (heads + 2 * kv_heads) * D]``: all heads of q, then of k, then of v.
    """
    refuse_gradient("int8_attention_packed", qkv, mask)
    out: Tensor = torch.ops.pyprod.int8_attention_packed.default(qkv, heads, kv_heads, mask, causal, scale)
    return out


def int8_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """The same integers, slowly, for finite inputs; float64 where the kernel rounds to float32."""
    (b, h, s, d), (kv, t) = q.shape, k.shape[1:3]
    scale = 1 / math.sqrt(d) if scale is None else scale
    keys = k.float()
    if t:
        keys = keys - _mean_in_order(keys)
    q_int, q_scale = quantize_per_token_reference(q)
    k_int, k_scale = quantize_per_token_reference(keys)
    v_int, v_scale = quantize_per_token_reference(v.float().transpose(2, 3))
    group = h // kv
    k_int, k_scale, v_int, v_scale = (x.double().repeat_interleave(group, 1) for x in (k_int, k_scale, v_int, v_scale))
    scores = (q_int.double() @ k_int.transpose(2, 3)) * (q_scale.double()[..., None] * k_scale[:, :, None] * scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.double()
    if causal:
        scores = scores.masked_fill(~torch.ones(s, t, dtype=torch.bool).tril(), -math.inf)
    if not t:
        return q.new_zeros(b, s, h * d)
    top = scores.amax(-1, keepdim=True)
    weights = torch.round(torch.exp(scores - top.nan_to_num(neginf=0.0)) * TOP_WEIGHT)
    total = weights.sum(-1, keepdim=True).clamp(min=1)
    mixed = weights @ v_int.transpose(2, 3) / total * v_scale[:, :, None]
    return mixed.transpose(1, 2).reshape(b, s, h * d).to(q.dtype)


def _mean_in_order(keys: Tensor) -> Tensor:
    """The mean over the tokens, summed front to back in float32 as the kernel does."""
    total = torch.zeros_like(keys[:, :, :1])
    for token in range(keys.shape[2]):
        total = total + keys[:, :, token : token + 1]
    return total * (1 / torch.tensor(keys.shape[2], dtype=torch.float32))


def int8_attention_cost(b: int, h: int, kv: int, s: int, t: int, d: int, itemsize: int = 4) -> Cost:
    """Cost of both products for q ``[b, h, s, d]`` and k, v ``[b, kv, t, d]``, without a mask."""
    return Cost(ops=4 * b * h * s * t * d, bytes=(2 * b * h * s * d + 2 * b * kv * t * d) * itemsize)


@fake("int8_attention")
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    b, h, s, d = q.shape
    return q.new_empty((b, s, h * d))


@fake("int8_attention_packed")
def _fake_packed(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    b, s, width = qkv.shape
    return qkv.new_empty((b, s, width // (heads + 2 * kv_heads) * heads))
