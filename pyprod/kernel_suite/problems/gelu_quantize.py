"""GELU by erf, quantized per token: before the second linear of a BERT feed-forward block."""

from __future__ import annotations

from torch.nn import functional

from pyprod.kernel_suite.problems._fused import BATCHES, Fused
from pyprod.kernels._cost import Cost
from pyprod.kernels.activation_quantize import gelu_quantize_cost

__all__ = ["BATCHES", "OURS", "PATTERN", "SIZES", "build", "cost"]

SIZES = ({"k": 1536}, {"k": 3072})
OURS = ("native.int8",)
PATTERN = "copy"


def build(k: int) -> Fused:
    """The activation; it has no weights."""
    return Fused("gelu_quantize", k, 1, functional.gelu)


def cost(m: int, k: int) -> Cost:
    """Cost of m rows."""
    return gelu_quantize_cost(m, k)
