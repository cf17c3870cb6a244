"""The matrix product alone: int8 in, exact int32 out."""

from __future__ import annotations

import torch
from torch import Tensor

from pyprod.kernel_suite.problems import ROWS
from pyprod.kernel_suite.problems._matrix import SIZES, checked_rows, gaussian_codes
from pyprod.kernels._cost import Cost
from pyprod.kernels.gemm import int8_gemm_cost, int8_gemm_reference
from pyprod.types import Mismatch

__all__ = ["BATCHES", "OURS", "PATTERN", "SIZES", "Gemm", "build", "cost"]

BATCHES = ROWS
OURS = ("native.int8",)
PATTERN = "read"


class Gemm:
    """``a @ w_q.T`` with int8 `w_q` ``[N, K]``."""

    def __init__(self, n: int, k: int) -> None:
        self.n, self.k = n, k
        self.w_q = gaussian_codes(n, k, seed=n * 100_003 + k)

    def inputs(self, m: int) -> tuple[Tensor, ...]:
        """int8 rows ``[m, K]``."""
        return (gaussian_codes(m, self.k, seed=self.k),)

    def check(self, outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], numerics: str) -> float:
        """Some rows must be equal."""
        (a,), (y,) = inputs, outputs
        rows = checked_rows(len(a))
        if y.shape != (len(a), self.n) or y.dtype != torch.int32:
            raise Mismatch(f"output is {y.dtype} {list(y.shape)}, want int32 {[len(a), self.n]}")
        wrong = int((y[rows] != int8_gemm_reference(a[rows], self.w_q)).sum())
        if wrong:
            raise Mismatch(f"{wrong} of {len(rows) * self.n} integers differ from the exact ones")
        return 0.0


def build(n: int, k: int) -> Gemm:
    """The product with its weights."""
    return Gemm(n, k)


def cost(m: int, n: int, k: int) -> Cost:
    """Cost of m rows."""
    return int8_gemm_cost(m, n, k)
