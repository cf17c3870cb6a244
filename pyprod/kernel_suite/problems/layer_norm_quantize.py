"""Layer norm with weight and bias, quantized per token: before each linear of a BERT block."""

from __future__ import annotations

import torch
from torch.nn import functional

from pyprod.kernel_suite.problems._fused import BATCHES, Fused
from pyprod.kernels._cost import Cost
from pyprod.kernels.norm import norm_quantize_cost

__all__ = ["BATCHES", "OURS", "PATTERN", "SIZES", "build", "cost"]

SIZES = ({"k": 384}, {"k": 768})
OURS = ("native.int8",)
PATTERN = "copy"
EPS = 1e-5


def build(k: int) -> Fused:
    """The norm with its weight and bias."""
    generator = torch.Generator().manual_seed(k)
    weight, bias = 1 + 0.1 * torch.randn(k, generator=generator), 0.1 * torch.randn(k, generator=generator)

    def function(x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, (k,), weight.to(x.dtype), bias.to(x.dtype), EPS)

    return Fused("layer_norm_quantize", k, 1, function, (weight, bias, EPS))


def cost(m: int, k: int) -> Cost:
    """Cost of m rows."""
    least = norm_quantize_cost(m, k)
    return Cost(least.ops, least.bytes + 4 * k)  # the bias
