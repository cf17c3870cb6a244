"""silu(gate) * up, quantized per token: before the second linear of a Llama feed-forward block."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from pyprod.kernel_suite.problems._fused import BATCHES, Fused
from pyprod.kernels._cost import Cost
from pyprod.kernels.activation_quantize import silu_mul_quantize_cost

__all__ = ["BATCHES", "OURS", "PATTERN", "SIZES", "build", "cost"]

SIZES = ({"k": 1536}, {"k": 14336})
OURS = ("native.int8",)
PATTERN = "copy"


def build(k: int) -> Fused:
    """The gate; it has no weights."""

    def function(gate: Tensor, up: Tensor) -> Tensor:
        return functional.silu(gate) * up

    return Fused("silu_mul_quantize", k, 2, function)


def cost(m: int, k: int) -> Cost:
    """Cost of m rows."""
    return silu_mul_quantize_cost(m, k)
