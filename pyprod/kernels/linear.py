"""int8_linear: a whole dynamically quantized linear layer in one call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake, refuse_gradient
from pyprod.kernels.gemm import PackedWeight, int8_gemm_reference
from pyprod.kernels.quantize import quantize_asymmetric_reference, quantize_per_token_reference

__all__ = ["int8_linear", "int8_linear_cost", "int8_linear_reference"]

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]

_op = torch.ops.pyprod.int8_linear.default

_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda y: y,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda y: functional.gelu(y, approximate="tanh"),
    "silu": functional.silu,
}


def int8_linear(
    x: Tensor,
    packed: PackedWeight,
    w_scale: Tensor,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    multiplier: Tensor | None = None,
    asymmetric: bool = False,
) -> Tensor:
    """``activation((x * multiplier) @ (w * w_scale).T + bias) + residual``, with what w multiplies quantized per token.

    The product is exact in int32; what follows is float32, evaluated in the order written above, rounded once to
    `out_dtype`. Every instruction set gives the same bits. Inference only.

    Args:
        x: ``[..., K]``, float32, bfloat16 or float16, any strides, CPU or CUDA.
        packed: int8 weight ``[N, K]``.
        w_scale: float32 ``[N]``, contiguous: one scale per output channel.
        bias: float32 ``[N]``, contiguous.
        activation: "relu", "gelu" (exact, by erf), "gelu_tanh" or "silu".
        residual: ``[..., N]`` of dtype `out_dtype`, any strides.
        out_dtype: float32, bfloat16 or float16; None: that of x.
        multiplier: float32 ``[K]``, contiguous: of x's channels, in float32. One over what SmoothQuant divides by.
        asymmetric: each token has a zero point too, so that its 255 integers lie between its least and its greatest
            value, and 0. Halves the rounding error of what is hardly ever negative, as a GELU's outputs; K < 2**16.

    Returns:
        ``[..., N]``, contiguous. A row of x that holds a NaN or an infinity gives a row of NaN.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape, device or value, or needs a gradient; the message names it.
    """
    refuse_gradient("int8_linear", x, bias, residual, multiplier)
    layer = (packed.data, packed.n, packed.k, w_scale, bias, activation, residual)
    out: Tensor = _op(x, *layer, out_dtype, multiplier, asymmetric)
    return out


def int8_linear_reference(
    x: Tensor,
    w_q: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    multiplier: Tensor | None = None,
    asymmetric: bool = False,
) -> Tensor:
    """The same, slowly, with the activation in float64: equal bits without one or with relu."""
    values = x if multiplier is None else x * multiplier
    if asymmetric:
        q, scale, zero_point = quantize_asymmetric_reference(values)
        acc = int8_matmul_reference(q, w_q) - zero_point[..., None] * w_q.sum(1, dtype=torch.int32)
    else:
        q, scale = quantize_per_token_reference(values)
        acc = int8_matmul_reference(q, w_q)
    return dequantize_reference(acc, scale, w_scale, bias, activation, residual).to(out_dtype or x.dtype)


def int8_matmul_reference(q: Tensor, w_q: Tensor) -> Tensor:
    """``q @ w_q.T`` of integers ``[..., K]`` and ``[N, K]``, exact int32 ``[..., N]``."""
    rows = q.reshape(math.prod(q.shape[:-1]), q.shape[-1])
    return int8_gemm_reference(rows, w_q).reshape(*q.shape[:-1], w_q.shape[0])


def dequantize_reference(
    acc: Tensor,
    scale: Tensor,
    w_scale: Tensor,
    bias: Tensor | None,
    activation: Activation | None,
    residual: Tensor | None,
) -> Tensor:
    """What every int8 linear layer does with its sums ``[..., N]``, float32; `scale` ``[...]`` is that of the rows."""
    y = acc.float() * (scale[..., None] * w_scale)
    if bias is not None:
        y = y + bias
    y = _ACTIVATIONS[activation](y.double()).float()
    return y if residual is None else y + residual.float()


def int8_linear_cost(m: int, n: int, k: int, x_itemsize: int = 4, out_itemsize: int = 4) -> Cost:
    """Cost of ``[m, k] @ [n, k].T`` with scales and bias, without residual."""
    return Cost(ops=2 * m * n * k, bytes=m * k * x_itemsize + n * k + 8 * n + m * n * out_itemsize)


@fake("int8_linear")
def _fake(
    x: Tensor,
    packed: Tensor,
    n: int,
    k: int,
    w_scale: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    multiplier: Tensor | None = None,
    asymmetric: bool = False,
) -> Tensor:
    if x.shape[-1] != k:
        raise RuntimeError(f"int8_linear: x must be [..., {k}], got {list(x.shape)}")
    return x.new_empty((*x.shape[:-1], n), dtype=out_dtype or x.dtype)
