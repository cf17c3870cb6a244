"""torch.compile of what a user writes without fused ops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pyprod.kernel_suite.peers import Prepared, TorchPrepared, Variant
from pyprod.kernel_suite.problems._fused import Fused
from pyprod.types import Unavailable

_FUSED = ("gelu_quantize", "layer_norm_quantize", "rms_norm_quantize", "silu_mul_quantize")
VARIANTS = {"inductor": Variant(_FUSED, "float32", "torch.compile, compiled anew for each number of rows")}


def available(variant: str) -> Unavailable | None:
    """None: without a C++ compiler it fails when it compiles."""
    return None


def prepare(problem: Fused, variant: str, threads: int, workdir: Path) -> Prepared:
    """The function; it is compiled on its first call."""
    return Compiled(problem)


class Compiled(TorchPrepared):
    """A compilation of its own for each number of rows, as the shapes of a server are known: the fastest there is."""

    def __init__(self, problem: Fused) -> None:
        super().__init__(problem.eager)

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """Forget what was compiled for other rows, lest torch turns to dynamic shapes."""
        torch.compiler.reset()
        compiled = torch.compile(self._function, dynamic=False, fullgraph=True)
        return TorchPrepared(compiled).bind(inputs)
