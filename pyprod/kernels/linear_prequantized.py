"""int8_linear_prequantized: int8_linear for activations that the operation before has already quantized."""

from __future__ import annotations

import torch
from torch import Tensor

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake, refuse_gradient
from pyprod.kernels.gemm import PackedWeight
from pyprod.kernels.linear import Activation, dequantize_reference, int8_matmul_reference

__all__ = ["int8_linear_prequantized", "int8_linear_prequantized_cost", "int8_linear_prequantized_reference"]

_op = torch.ops.pyprod.int8_linear_prequantized.default


def int8_linear_prequantized(
    q: Tensor,
    scale: Tensor,
    packed: PackedWeight,
    w_scale: Tensor,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """``activation((q * scale) @ (w * w_scale).T + bias) + residual``: `int8_linear` from its second step on.

    ``int8_linear_prequantized(*quantize_per_token(x), ...)`` has the bits of ``int8_linear(x, ...)`` for float32 x.
    For operations that end by quantizing their rows, such as a norm, so that nobody reads them as floats.

    Args:
        q: int8 ``[..., K]``, any strides, CPU.
        scale: float32 ``[...]``, contiguous: one scale per row of q.
        packed: int8 weight ``[N, K]``.
        w_scale: float32 ``[N]``, contiguous.
        bias: float32 ``[N]``, contiguous.
        activation: "relu", "gelu" (exact, by erf), "gelu_tanh" or "silu".
        residual: ``[..., N]`` of dtype `out_dtype`, any strides.
        out_dtype: float32 (also None), bfloat16 or float16.

    Returns:
        ``[..., N]``, contiguous. A row whose scale is NaN is NaN.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape, device or value, or needs a gradient; the message names it.
    """
    refuse_gradient("int8_linear_prequantized", scale, bias, residual)
    out: Tensor = _op(q, scale, packed.data, packed.n, packed.k, w_scale, bias, activation, residual, out_dtype)
    return out


def int8_linear_prequantized_reference(
    q: Tensor,
    scale: Tensor,
    w_q: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The same, slowly, with the activation in float64: equal bits without one or with relu."""
    y = dequantize_reference(int8_matmul_reference(q, w_q), scale, w_scale, bias, activation, residual)
    return y.to(out_dtype or torch.float32)


def int8_linear_prequantized_cost(m: int, n: int, k: int, out_itemsize: int = 4) -> Cost:
    """Cost of ``[m, k] @ [n, k].T`` with scales and bias, without residual."""
    return Cost(ops=2 * m * n * k, bytes=m * k + 4 * m + n * k + 8 * n + m * n * out_itemsize)


@fake("int8_linear_prequantized")
def _fake(
    q: Tensor,
    scale: Tensor,
    packed: Tensor,
    n: int,
    k: int,
    w_scale: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    if q.shape[-1] != k:
        raise RuntimeError(f"int8_linear_prequantized: q must be [..., {k}], got {list(q.shape)}")
    return q.new_empty((*q.shape[:-1], n), dtype=out_dtype or torch.float32)
