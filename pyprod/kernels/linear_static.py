"""int8_linear_static: a linear layer between activations of static scales and zero points."""

from __future__ import annotations

import torch
from torch import Tensor

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake, refuse_gradient
from pyprod.kernels.gemm import PackedWeight
from pyprod.kernels.linear import Activation, dequantize_reference, int8_matmul_reference

__all__ = ["int8_linear_static", "int8_linear_static_cost", "int8_linear_static_reference"]

_op = torch.ops.pyprod.int8_linear_static.default


def int8_linear_static(
    x_q: Tensor,
    x_scale: float,
    x_zero_point: int,
    packed: PackedWeight,
    w_scale: Tensor,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    out_scale: float | None = None,
    out_zero_point: int = 0,
) -> Tensor:
    """``activation((x_q - x_zero_point) * x_scale @ (w * w_scale).T + bias) + residual``, requantized if asked.

    The product is exact in int32; what follows is float32 in the order written above, rounded once. With `out_scale`
    the result y is stored as ``saturate(round(y * (1 / out_scale)) + out_zero_point)``, ties to even; a NaN becomes
    the least integer. The arithmetic of ONNX' QuantizeLinear, up to one rounding of ``1 / out_scale``.

    Args:
        x_q: int8 or uint8 ``[..., K]``, any strides, CPU; K <= 65793.
        x_scale: scale of x_q, positive.
        x_zero_point: the integer that stands for 0; one that x_q's dtype holds.
        packed: int8 weight ``[N, K]``.
        w_scale: float32 ``[N]``, contiguous: one scale per output channel.
        bias: float32 ``[N]``, contiguous.
        activation: "relu", "gelu" (exact, by erf), "gelu_tanh" or "silu".
        residual: ``[..., N]``, any strides: of dtype `out_dtype`, or float32 with `out_scale`.
        out_dtype: float32 (also None), bfloat16 or float16; with `out_scale` int8 (also None) or uint8.
        out_scale: scale of the result, positive; None: the result stays in floats.
        out_zero_point: zero point of the result.

    Returns:
        ``[..., N]``, contiguous.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape, device or value, or needs a gradient; the message names it.
    """
    refuse_gradient("int8_linear_static", bias, residual)
    out: Tensor = _op(
        x_q, x_scale, x_zero_point, packed.data, packed.n, packed.k, w_scale, bias, activation, residual, out_dtype,
        out_scale, out_zero_point,
    )  # fmt: skip
    return out


def int8_linear_static_reference(
    x_q: Tensor,
    x_scale: float,
    x_zero_point: int,
    w_q: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    out_scale: float | None = None,
    out_zero_point: int = 0,
) -> Tensor:
    """The same, slowly, with the activation in float64: equal bits without one or with relu."""
    acc = int8_matmul_reference(x_q.int() - x_zero_point, w_q)
    scale = torch.full(x_q.shape[:-1], x_scale)
    y = dequantize_reference(acc, scale, w_scale, bias, activation, residual)
    if out_scale is None:
        return y.to(out_dtype or torch.float32)
    dtype = out_dtype or torch.int8
    least, greatest = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    q = torch.round(y * (1 / torch.tensor(out_scale))) + out_zero_point
    return q.nan_to_num(least).clamp(least, greatest).to(dtype)


def int8_linear_static_cost(m: int, n: int, k: int, out_itemsize: int = 4) -> Cost:
    """Cost of ``[m, k] @ [n, k].T`` with scales and bias, without residual."""
    return Cost(ops=2 * m * n * k, bytes=m * k + n * k + 8 * n + m * n * out_itemsize)


@fake("int8_linear_static")
def _fake(
    x_q: Tensor,
    x_scale: float,
    x_zero_point: int,
    packed: Tensor,
    n: int,
    k: int,
    w_scale: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    out_scale: float | None = None,
    out_zero_point: int = 0,
) -> Tensor:
    if x_q.shape[-1] != k:
        raise RuntimeError(f"int8_linear_static: x_q must be [..., {k}], got {list(x_q.shape)}")
    dtype = out_dtype or (torch.float32 if out_scale is None else torch.int8)
    return x_q.new_empty((*x_q.shape[:-1], n), dtype=dtype)
