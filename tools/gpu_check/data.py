"""Operands on the GPU: what a quantized Gaussian looks like, and others that show how much that matters."""

from __future__ import annotations

import torch
from torch import Tensor

#: Codes of a row of n Gaussian values whose largest is 127: that one lies near 4 deviations of a few thousand.
DEVIATION = 127 / 4
DEVICE = "cuda"  # tests of the checks themselves have no other than the CPU


def codes(rows: int, columns: int, kind: str = "gaussian") -> Tensor:
    """int8 on the GPU: gaussian, uniform, or zeros."""
    if kind == "zeros":
        return torch.zeros(rows, columns, dtype=torch.int8, device=DEVICE)
    if kind == "uniform":
        return torch.randint(-128, 128, (rows, columns), dtype=torch.int8, device=DEVICE)
    values = torch.randn(rows, columns, device=DEVICE).mul_(DEVIATION).round_()
    return values.clamp_(-127, 127).to(torch.int8)


def exact(a: Tensor, w: Tensor) -> Tensor:
    """``a @ w.T`` to int32, slowly: sums below 2**53 are exact in float64."""
    return (a.double() @ w.double().T).to(torch.int32)


def poisoned(*shape: int) -> None:
    """Leave memory of that many int32 behind which is no zero, for the next output of this size."""
    torch.full(shape, 0x55555555, dtype=torch.int32, device=DEVICE)
