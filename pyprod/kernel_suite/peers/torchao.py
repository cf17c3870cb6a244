"""torchao: INT8 dynamic activation, INT8 weight, compiled for one row and for any number of rows."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pyprod.export.quiet import quiet
from pyprod.kernel_suite.peers import Prepared, Variant
from pyprod.kernel_suite.peers.compile import Compiled
from pyprod.kernel_suite.problems.linear import Linear
from pyprod.types import Unavailable

with quiet():
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

VARIANTS = {"int8": Variant(("linear",), "int8", "rows per token, weights per channel, torch.compile")}

_SIZES = (768, 4096)


def available(variant: str) -> Unavailable | None:
    """None: without a C++ compiler it fails when it compiles."""
    return None


def prepare(problem: Linear, variant: str, threads: int, workdir: Path) -> Prepared:
    """The layer quantized and compiled.

    Raises:
        Unavailable: the layer is none of the sizes that this peer has time for.
    """
    if min(problem.n, problem.k) not in _SIZES:
        raise Unavailable("compiling takes seconds: measured at BERT-base and Llama sizes only")
    layer = nn.Linear(problem.k, problem.n, device="meta")
    layer.weight = nn.Parameter(problem.weight, requires_grad=False)
    layer.bias = nn.Parameter(problem.bias, requires_grad=False)
    quantize_(layer, Int8DynamicActivationInt8WeightConfig())
    return Compiled(layer)
