"""SiLU-gate and GELU fused with the quantization of their result: one pass over memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake, refuse_gradient
from pyprod.kernels.quantize import quantize_per_token_reference

__all__ = [
    "gelu_quantize",
    "gelu_quantize_cost",
    "gelu_quantize_reference",
    "silu_mul_quantize",
    "silu_mul_quantize_cost",
    "silu_mul_quantize_reference",
]

Approximate = Literal["none", "tanh"]


def silu_mul_quantize(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """``quantize_per_token(silu(gate) * up)``, computed in float32.

    Args:
        gate: ``[..., K]``, float32, bfloat16 or float16, CPU. Rows may lie apart: both halves of one tensor, as
            ``chunk(2, -1)`` gives them, are read where they are.
        up: shaped like gate and of its dtype.

    Returns:
        q int8 ``[..., K]`` in -127..127, and scale float32 ``[...]``. A row whose result holds a NaN or an infinity
        gets scale NaN and q = 0.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape or device, or needs a gradient; the message names it.
    """
    refuse_gradient("silu_mul_quantize", gate, up)
    q, scale = torch.ops.pyprod.silu_mul_quantize.default(gate, up)
    return q, scale


def gelu_quantize(x: Tensor, approximate: Approximate = "none") -> tuple[Tensor, Tensor]:
    """``quantize_per_token(gelu(x))``, computed in float32.

    Args:
        x: as `gate` of `silu_mul_quantize`.
        approximate: "none" (by erf) or "tanh", as in ``torch.nn.functional.gelu``.

    Returns:
        As `silu_mul_quantize`.
    """
    refuse_gradient("gelu_quantize", x)
    q, scale = torch.ops.pyprod.gelu_quantize.default(x, approximate=approximate)
    return q, scale


def silu_mul_quantize_reference(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The same, slowly, with the activation in float64."""
    return quantize_per_token_reference((functional.silu(gate.double()) * up.double()).float())


def gelu_quantize_reference(x: Tensor, approximate: Approximate = "none") -> tuple[Tensor, Tensor]:
    """The same, slowly, with the activation in float64."""
    return quantize_per_token_reference(functional.gelu(x.double(), approximate=approximate).float())


def silu_mul_quantize_cost(m: int, k: int, itemsize: int = 4) -> Cost:
    """Cost of m rows of k results."""
    return Cost(ops=0, bytes=2 * m * k * itemsize + m * k + 4 * m)


def gelu_quantize_cost(m: int, k: int, itemsize: int = 4) -> Cost:
    """Cost of m rows of k results."""
    return Cost(ops=0, bytes=m * k * itemsize + m * k + 4 * m)


@fake("silu_mul_quantize")
def _fake_silu_mul(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape, dtype=torch.int8), gate.new_empty(gate.shape[:-1], dtype=torch.float32)


@fake("gelu_quantize")
def _fake_gelu(x: Tensor, *, approximate: str = "none") -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[:-1], dtype=torch.float32)
