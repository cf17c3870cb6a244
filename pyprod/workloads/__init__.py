"""Workloads: a trained model, real data and a metric; a file each. The file's name is the workload's name.

A workload file has a module docstring (its first line is shown by ``pyprod list``) and one function::

    def build() -> Workload: ...

which raises `Unavailable` when weights or data can't be had. A user's own model is the same thing anywhere else:
``--workload path/to/mymodel.py:build``, or an entry point in the group ``pyprod.workloads``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pyprod import discover
from pyprod.types import Evaluation, PyprodError


def _identity(outputs: Tensor, start: int) -> Tensor:
    return outputs


@dataclass(frozen=True)
class Workload:
    """A model and everything needed to run, calibrate and score it.

    Attributes:
        model: returns the trained float32 module in eval mode; its forward takes ``len(inputs)`` tensors, batch
            first, and returns one tensor, batch first. Called once per process.
        inputs: the evaluation set, real data: tensors ``[n, ...]`` of fixed shape; a batch is rows of them.
        calibration: rows for static quantization, shaped like `inputs`, sharing no example with it.
        score: from the reduced outputs ``[n, ...]`` over all of `inputs` to the metric's raw values.
        reduce: shrinks one batch's outputs before they are kept: ``reduce(outputs [b, ...], start)``, where
            `start` is the row of `inputs` that the batch begins with. For a language model: logits to loss.
        unit: what one row is: "sentence", "image", "row", "sequence".
        tokens_per_sample: for sequence models, tokens in one row: throughput is also given in tokens/s.
    """

    model: Callable[[], nn.Module]
    inputs: tuple[Tensor, ...]
    calibration: tuple[Tensor, ...]
    score: Callable[[Tensor], Evaluation]
    reduce: Callable[[Tensor, int], Tensor] = _identity
    unit: str = "sample"
    tokens_per_sample: int | None = None

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """The first `batch` rows of `inputs`, contiguous; rows repeat when the set is smaller than the batch."""
        rows = torch.arange(batch) % self.inputs[0].shape[0]
        return tuple(t[rows].contiguous() for t in self.inputs)


def load(name: str) -> Workload:
    """Build the workload `name`: a file of this package, an entry point, or ``path/to/file.py:function``.

    Raises:
        Unavailable: its data, weights or a package can't be had here.
        PyprodError: there is no such workload, or the file or function does not give one.
    """
    build = _builder(name)
    workload = build()
    if not isinstance(workload, Workload):
        raise PyprodError(f"workload {name}: build() must return pyprod.workloads.Workload, got {type(workload)}")
    return workload


def known() -> list[str]:
    """Every workload that exists here by name: files of this package, then entry points."""
    return discover.names(__name__) + sorted(discover.entry_points(__name__))


def _builder(name: str) -> Callable[[], object]:
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        module = discover.load_file(Path(path))
        if not hasattr(module, function):
            raise PyprodError(f"{path} has no function {function!r}")
        return getattr(module, function)  # type: ignore[no-any-return]
    points = discover.entry_points(__name__)
    if name in points:
        return points[name].load()  # type: ignore[no-any-return]
    if name not in known():
        raise PyprodError(discover.unknown("workload", name, known()))
    return discover.load(__name__, name).build  # type: ignore[no-any-return]
