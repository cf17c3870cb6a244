"""torchao: INT8 dynamic activation, INT8 weight, compiled for each number of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from pyprod.kernel_suite.peers import Prepared, TorchPrepared, Variant
from pyprod.kernel_suite.problems.linear import Linear
from pyprod.types import Unavailable

VARIANTS = {"int8": Variant(("linear",), "int8", "rows per token, weights per channel, torch.compile")}


def available(variant: str) -> Unavailable | None:
    """None: without a C++ compiler it fails when it compiles."""
    return None


def prepare(problem: Linear, variant: str, threads: int, workdir: Path) -> Prepared:
    """The layer quantized and compiled."""
    layer = nn.Linear(problem.k, problem.n, device="meta")
    layer.weight = nn.Parameter(problem.weight, requires_grad=False)
    layer.bias = nn.Parameter(problem.bias, requires_grad=False)
    quantize_(layer, Int8DynamicActivationInt8WeightConfig())
    return Compiled(layer)


class Compiled(TorchPrepared):
    """One compilation for all numbers of rows above one: the suite has too many for one each."""

    def __init__(self, layer: nn.Module) -> None:
        torch.compiler.reset()
        super().__init__(torch.compile(layer, fullgraph=True, dynamic=None))

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """Rows marked dynamic."""
        (x,) = inputs
        if len(x) > 1:
            torch._dynamo.mark_dynamic(x, 0)
        return super().bind(inputs)
