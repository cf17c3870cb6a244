"""torch.compile of what a user writes without fused ops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyprod.kernel_suite.peers import Prepared, TorchPrepared, Variant
from pyprod.kernel_suite.problems._fused import Fused
from pyprod.types import Unavailable

_FUSED = ("gelu_quantize", "layer_norm_quantize", "rms_norm_quantize", "silu_mul_quantize")
VARIANTS = {"inductor": Variant(_FUSED, "float32", "torch.compile, compiled for one row and for any number of rows")}


def available(variant: str) -> Unavailable | None:
    """None: without a C++ compiler it fails when it compiles."""
    return None


def prepare(problem: Fused, variant: str, threads: int, workdir: Path) -> Prepared:
    """The function; it is compiled on its first call."""
    return Compiled(problem.eager)


class Compiled(TorchPrepared):
    """Compiled for one row, and once for all other numbers of rows: the suite has too many for one each."""

    def __init__(self, function: Callable[..., Any]) -> None:
        torch.compiler.reset()
        super().__init__(torch.compile(function, fullgraph=True))

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """Rows marked dynamic, unless there is only one."""
        for x in inputs:
            if len(x) > 1:
                torch._dynamo.mark_dynamic(x, 0)
        return super().bind(inputs)
