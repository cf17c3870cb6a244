"""What a format of this room is given, and what it gives.

A format is a file of this room that has::

    SUFFIX = ".onnx"
    NUMERICS = "float32"   # or "simulated": agrees with the model's rounding simulated; "quantized": is near the model
    def write(order: Order, path: Path) -> Written: ...                # to exactly this path
    def readers(order: Order, path: Path) -> dict[str, Reader]: ...    # every runtime that can run the file here

and, where it rounds activations, if it can::

    def unrounded(order: Order, path: Path) -> tuple[dict[str, Reader], nn.Module]: ...  # the file without that, and
                                                                                         # the float model it must be
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyprod.export import onnx_file
from pyprod.types import QuantSpec
from pyprod.workloads import Dimension

#: From inputs to output.
Reader = Callable[[tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True)
class Order:
    """A model to be written.

    Attributes:
        model: float32, in eval mode, on the CPU; a format leaves it as it is.
        example: inputs, batch first.
        dimensions: to be left open, beside the batch.
        quantspec: what shall run in integers, for formats that hold integers.
        metadata: to be found in the file, where the format has a place for it.
        opset: of ONNX.
        external_data: weights of an ONNX file in a file of their own; None: where one file can't hold them.
        threads: for compilers and runtimes.
        calibration: rows for formats that quantize by themselves.
        judge: what of the model's metric a reader loses; None where there is no metric.
        budget: how much it may lose.
        progress: called with what is done now.
    """

    model: nn.Module
    example: tuple[Tensor, ...]
    dimensions: tuple[Dimension, ...] = ()
    quantspec: QuantSpec | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    opset: int = onnx_file.OPSET
    external_data: bool | None = None
    threads: int = 1
    calibration: tuple[Tensor, ...] = ()
    judge: Callable[[Reader], float] | None = None
    budget: float = 0.0
    progress: Callable[[str], None] = lambda what: None


@dataclass(frozen=True)
class Written:
    """What came of an order.

    Attributes:
        axes: of each input, the axes that may have another size than the example's, and the dimension's name.
        fixed: by name, why a dimension is not among them.
        facts: of the file, for its report; JSON values.
        program: what the file was made from, where the file's steps bear its names.
    """

    axes: tuple[Mapping[int, str], ...]
    fixed: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    program: torch.export.ExportedProgram | None = None
