"""What a step of a recipe gets, and what it gives: `pyprod.optimize` and `pyprod.quantize` have the steps.

A step is a file with a function ``apply(made: Made, context: Context, *, ...) -> Made``; its name is the file's, and
what a recipe says beside the name are its keyword arguments. ``FINDS_SCALES = True`` in it says that what it finds
holds for the weights as they are: only such steps may follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from pyprod.types import QuantSpec
from pyprod.workloads import Workload


@dataclass(frozen=True)
class Made:
    """A model on its way.

    Attributes:
        model: float32, in eval mode, on the CPU. A step may change it in place.
        quantspec: what shall run in integers; None leaves that to each backend.
        notes: what a reader of the table must know, a clause from each step.
    """

    model: nn.Module
    quantspec: QuantSpec | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """What a step may use beside.

    Attributes:
        workload: the model as it was, its data and its metric.
        folder: of this step's own; what is there when it is killed is there when it is run again.
        threads: CPU threads.
    """

    workload: Workload
    folder: Path
    threads: int = 1
