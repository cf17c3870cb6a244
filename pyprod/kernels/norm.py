"""RMS norm and layer norm fused with what stands around them: the residual before, the quantization after."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake, refuse_gradient
from pyprod.kernels.quantize import quantize_per_token_reference

__all__ = [
    "add_layer_norm",
    "add_layer_norm_quantize",
    "add_layer_norm_reference",
    "add_norm_cost",
    "add_norm_quantize_cost",
    "add_rms_norm",
    "add_rms_norm_quantize",
    "add_rms_norm_reference",
    "layer_norm_quantize",
    "layer_norm_quantize_reference",
    "norm_quantize_cost",
    "rms_norm_quantize",
    "rms_norm_quantize_reference",
]

#: Which float row to return beside the quantized one: "sum", x + residual, is what a pre-norm block adds to later;
#: "normalized" is what a post-norm block adds to.
Keep = Literal["sum", "normalized"]

_TINY = torch.finfo(torch.float32).tiny
_PARTIALS = 64  # csrc/norm/sums.h


def rms_norm_quantize(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """``quantize_per_token(rms_norm(x) * weight)`` in one pass over memory.

    The factor 1 / sqrt(mean(x^2) + eps) is one number per row: it changes the scale and not q, so
    ``q, s = quantize_per_token(x * weight)`` and ``scale = max(s * factor, FLT_MIN)``. All in float32.

    Args:
        x: ``[..., K]``, float32, bfloat16 or float16, CPU. Rows may lie apart (a slice of the last dimension).
        weight: float32 ``[K]``, contiguous, or None.
        eps: not negative.

    Returns:
        q int8 ``[..., K]`` in -127..127, and scale float32 ``[...]``. A row of x that holds a NaN or an infinity gets
        scale NaN and q = 0.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape or value, or needs a gradient; the message names it.
    """
    refuse_gradient("rms_norm_quantize", x, weight)
    q, scale = torch.ops.pyprod.rms_norm_quantize.default(x, weight, eps)
    return q, scale


def layer_norm_quantize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, multiplier: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``quantize_per_token(layer_norm(x, weight, bias) * multiplier)`` in one pass over memory, in float32.

    Arguments, results and errors are those of `rms_norm_quantize`; bias is float32 ``[K]`` or None, and needs a weight.

    Args:
        multiplier: float32 ``[K]``, or None: of each channel, where something else reads the norm as it is. One over
            what SmoothQuant divides by.
    """
    refuse_gradient("layer_norm_quantize", x, weight, bias, multiplier)
    q, scale = torch.ops.pyprod.layer_norm_quantize.default(x, weight, bias, eps, multiplier)
    return q, scale


def add_rms_norm_quantize(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float, keep: Keep = "sum"
) -> tuple[Tensor, Tensor, Tensor]:
    """`rms_norm_quantize` of ``x + residual``, and one float row of it.

    Args:
        x, weight, eps: as in `rms_norm_quantize`.
        residual: shaped like x and of its dtype. The sum is rounded to that dtype, as torch does, and then normalized.
        keep: "sum" returns ``x + residual``; "normalized" the norm of it, before quantization.

    Returns:
        q int8 ``[..., K]``, scale float32 ``[...]``, and the kept row ``[..., K]`` in the dtype of x.
    """
    refuse_gradient("add_rms_norm_quantize", x, residual, weight)
    q, scale, kept = torch.ops.pyprod.add_rms_norm_quantize.default(x, residual, weight, eps, keep)
    return q, scale, kept


def add_layer_norm_quantize(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    keep: Keep = "sum",
    multiplier: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`layer_norm_quantize` of ``x + residual``, and one float row of it, without `multiplier`: see
    `add_rms_norm_quantize`."""
    refuse_gradient("add_layer_norm_quantize", x, residual, weight, bias, multiplier)
    q, scale, kept = torch.ops.pyprod.add_layer_norm_quantize.default(x, residual, weight, bias, eps, keep, multiplier)
    return q, scale, kept


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """RMS norm of ``x + residual`` without quantization: (normalized, sum), both in the dtype of x.

    Arguments and errors are those of `add_rms_norm_quantize`.
    """
    refuse_gradient("add_rms_norm", x, residual, weight)
    normalized, total = torch.ops.pyprod.add_rms_norm.default(x, residual, weight, eps)
    return normalized, total


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Layer norm of ``x + residual`` without quantization: (normalized, sum), both in the dtype of x."""
    refuse_gradient("add_layer_norm", x, residual, weight, bias)
    normalized, total = torch.ops.pyprod.add_layer_norm.default(x, residual, weight, bias, eps)
    return normalized, total


def rms_norm_quantize_reference(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """The same bits, slowly."""
    product, factor = _rms(x, weight, eps)
    q, scale = quantize_per_token_reference(product)
    return q, (scale * factor).clamp(min=_TINY)


def layer_norm_quantize_reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, multiplier: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same bits, slowly."""
    y = _layer(x, weight, bias, eps)
    return quantize_per_token_reference(y if multiplier is None else y * multiplier)


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """The same bits, slowly."""
    product, factor = _rms(x + residual, weight, eps)
    return (product * factor[..., None]).to(x.dtype), x + residual


def add_layer_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """The same bits, slowly."""
    return _layer(x + residual, weight, bias, eps).to(x.dtype), x + residual


def _sum(x: Tensor) -> Tensor:
    """Sum over the last dimension in the kernels' order: 64 partial sums, then halves."""
    partial = x.new_zeros((*x.shape[:-1], _PARTIALS))
    padded = functional.pad(x, (0, -x.shape[-1] % _PARTIALS))
    for i in range(0, x.shape[-1], _PARTIALS):
        partial = partial + padded[..., i : i + _PARTIALS]
    while partial.shape[-1] > 1:
        half = partial.shape[-1] // 2
        partial = partial[..., :half] + partial[..., half:]
    return partial[..., 0]


def _mean(x: Tensor) -> Tensor:
    return _sum(x) / max(1, x.shape[-1])


def _factor(squares: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean + eps). The root is taken in float64: torch's in float32 may be an ulp off the nearest."""
    return 1 / (_mean(squares) + eps).double().sqrt().float()


def _rms(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    h = x.float()
    return h if weight is None else h * weight, _factor(h * h, eps)


def _layer(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    h = x.float()
    centered = h - _mean(h)[..., None]
    y = centered * _factor(centered * centered, eps)[..., None]
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def norm_quantize_cost(m: int, k: int, itemsize: int = 4) -> Cost:
    """Cost of `rms_norm_quantize` (with a weight) or `layer_norm_quantize` (add 4 k) of m rows of k values."""
    return Cost(ops=0, bytes=m * k * itemsize + 4 * k + m * k + 4 * m)


def add_norm_quantize_cost(m: int, k: int, itemsize: int = 4) -> Cost:
    """Cost of the same with residual and kept row."""
    return Cost(ops=0, bytes=3 * m * k * itemsize + 4 * k + m * k + 4 * m)


def add_norm_cost(m: int, k: int, itemsize: int = 4) -> Cost:
    """Cost of `add_rms_norm` (with a weight) or `add_layer_norm` (add 4 k)."""
    return Cost(ops=0, bytes=4 * m * k * itemsize + 4 * k)


def _quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[:-1], dtype=torch.float32)


@fake("rms_norm_quantize")
def _fake_rms(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return _quantized(x)


@fake("layer_norm_quantize")
def _fake_layer(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, multiplier: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return _quantized(x)


@fake("add_rms_norm_quantize")
def _fake_add_rms_quantize(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float, keep: str = "sum"
) -> tuple[Tensor, Tensor, Tensor]:
    return *_quantized(x), x.new_empty(x.shape)


@fake("add_layer_norm_quantize")
def _fake_add_layer_quantize(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    keep: str = "sum",
    multiplier: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return *_quantized(x), x.new_empty(x.shape)


@fake("add_rms_norm")
def _fake_add_rms(x: Tensor, residual: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@fake("add_layer_norm")
def _fake_add_layer(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)
