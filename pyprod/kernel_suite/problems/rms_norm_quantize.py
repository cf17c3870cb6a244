"""RMS norm with a weight, quantized per token: before each linear of a Llama block."""

from __future__ import annotations

import torch
from torch.nn import functional

from pyprod.kernel_suite.problems._fused import BATCHES, Fused
from pyprod.kernels._cost import Cost
from pyprod.kernels.norm import norm_quantize_cost

__all__ = ["BATCHES", "OURS", "PATTERN", "SIZES", "build", "cost"]

SIZES = ({"k": 768}, {"k": 4096})
OURS = ("native.int8",)
PATTERN = "copy"
EPS = 1e-6


def build(k: int) -> Fused:
    """The norm with its weight."""
    weight = 1 + 0.1 * torch.randn(k, generator=torch.Generator().manual_seed(k))

    def function(x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, (k,), weight.to(x.dtype), EPS)

    return Fused("rms_norm_quantize", k, 1, function, (weight, EPS))


def cost(m: int, k: int) -> Cost:
    """Cost of m rows."""
    return norm_quantize_cost(m, k)
