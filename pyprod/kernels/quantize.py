"""quantize_per_token: symmetric dynamic quantization, one scale per row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake, refuse_gradient

__all__ = ["quantize_per_token", "quantize_per_token_cost", "quantize_per_token_reference"]

_op = torch.ops.pyprod.quantize_per_token.default


def quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize each row of x to int8 with a scale of its own.

    ``scale = max(max|row| / 127, FLT_MIN)``, ``q = round(row * (1 / scale))``, ties to even, in float32. A row that
    holds a NaN or an infinity gets scale NaN and q = 0: what is computed from it is NaN, never a clamped number.

    Args:
        x: ``[..., K]``, float32, bfloat16 or float16, any strides, CPU or CUDA.

    Returns:
        q int8 ``[..., K]`` in -127..127, and scale float32 ``[...]``.

    Raises:
        RuntimeError: x has another dtype, no dimension, or needs a gradient.
    """
    refuse_gradient("quantize_per_token", x)
    q, scale = _op(x)
    return q, scale


def quantize_per_token_reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """The same bits, slowly."""
    rows = x.float()
    if x.shape[-1] == 0:
        return rows.to(torch.int8), torch.full(x.shape[:-1], torch.finfo(torch.float32).tiny, device=x.device)
    scale = (rows.abs().amax(-1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    scale[~rows.isfinite().all(-1)] = torch.nan
    q = torch.round(rows * (1 / scale)[..., None])
    return q.nan_to_num(0).to(torch.int8), scale


def quantize_asymmetric_reference(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `int8_linear` does with asymmetric activations: q int8 ``[..., K]``, scale float32 and zero point int32
    ``[...]``, of ``x = scale * (q - zero_point)`` over a row's range and 0.

    254 steps and not 255: rounding a value and the zero point, each its own way, never leaves int8 then.
    """
    rows = x.float()
    high, low = (functional.pad(side, (0, 1)).amax(-1).nan_to_num(0, 0, 0) for side in (rows, -rows))
    scale = (high / 254 + low / 254).clamp(min=torch.finfo(torch.float32).tiny)
    zero_point = torch.round(low * (1 / scale)) - 128
    scale[~rows.isfinite().all(-1)] = torch.nan
    q = torch.round(rows * (1 / scale)[..., None]) + zero_point[..., None]
    lost = scale.isnan()
    q[lost], zero_point[lost] = 0, 0
    return q.to(torch.int8), scale, zero_point.to(torch.int32)


def quantize_per_token_cost(m: int, k: int, itemsize: int = 4) -> Cost:
    """Cost of m rows of k values of `itemsize` bytes."""
    return Cost(ops=0, bytes=m * k * itemsize + m * k + 4 * m)


@fake("quantize_per_token")
def _fake(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[:-1], dtype=torch.float32)
