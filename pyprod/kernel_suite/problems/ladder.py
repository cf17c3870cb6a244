"""The linear layer again, for the ladder: what each step from three loops to the fused kernel brings."""

from __future__ import annotations

from pyprod.kernel_suite.problems.linear import OURS, PATTERN, Linear, build, cost

__all__ = ["BATCHES", "OURS", "PATTERN", "RUNGS", "SIZES", "THREADS", "Linear", "build", "cost"]

#: Weights that stay in a core's second cache, and weights that don't.
SIZES = ({"n": 768, "k": 768}, {"n": 4096, "k": 4096})
BATCHES = (1, 32, 128)
#: Most rungs know no others.
THREADS = (1,)
#: Peers from the bottom up; the last is the kernel as it is.
RUNGS = (
    *(f"ladder.{name}" for name in ("naive", "blocked", "vnni", "packed", "registers", "tiles", "scheduled")),
    *OURS,
)
