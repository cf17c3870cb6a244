"""The contract of a workload, and one clear line for each way a user's own can break it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from pyprod.types import Evaluation, PyprodError, Unavailable

Result = TypeVar("Result")


def _identity(outputs: Tensor, start: int) -> Tensor:
    return outputs


def _unchanged(first: Tensor) -> Tensor:
    return first


@dataclass(frozen=True)
class Training:
    """What a model is fitted to: rows that share no example with those that it is scored on.

    Attributes:
        model: makes a new one; its weights are drawn from torch's generator.
        inputs: ``[n, ...]`` each.
        targets: ``[n, ...]``.
        loss: of outputs and targets of a batch, a scalar: their mean.
        epochs, batch, learning_rate, weight_decay: what fits it from the beginning, by AdamW.
        augment: changes a batch of the first input.
    """

    model: Callable[[], nn.Module]
    inputs: tuple[Tensor, ...]
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    augment: Callable[[Tensor], Tensor] = _unchanged


@dataclass(frozen=True)
class Dimension:
    """A dimension of the inputs, beside the batch, whose size the model leaves open.

    Attributes:
        name: "sequence".
        axes: where it is: position of the input, axis.
        least, most: sizes that the model takes; `most` None: any.
    """

    name: str
    axes: tuple[tuple[int, int], ...]
    least: int = 1
    most: int | None = None


@dataclass(frozen=True)
class Workload:
    """A model and everything needed to run, calibrate and score it.

    Attributes:
        model: returns the trained float32 module in eval mode; its forward takes ``len(inputs)`` tensors, batch
            first, and returns one tensor, batch first. Called once per process.
        inputs: the evaluation set, real data: tensors ``[n, ...]`` of fixed shape; a batch is rows of them.
        calibration: rows for static quantization, shaped like `inputs`, sharing no example with it.
        score: from the reduced outputs ``[n, ...]`` over all of `inputs` to the metric's raw values; None when
            there is nothing to compare with: then no accuracy is measured.
        reduce: shrinks one batch's outputs before they are kept: ``reduce(outputs [b, ...], start)``, where
            `start` is the row of `inputs` that the batch begins with. For a language model: logits to loss.
        unit: what one row is: "text", "image", "row", "sequence".
        tokens_per_sample: for sequence models, tokens in one row: throughput is also given in tokens/s.
        training: what `model` can be trained on further; None where there are no such rows.
        dimensions: sizes of the inputs that an exported file shall leave open, beside the batch.
        metadata: what a user of an exported file must know, and finds in it: labels, preprocessing.
    """

    model: Callable[[], nn.Module]
    inputs: tuple[Tensor, ...]
    calibration: tuple[Tensor, ...]
    score: Callable[[Tensor], Evaluation] | None
    reduce: Callable[[Tensor, int], Tensor] = _identity
    unit: str = "sample"
    tokens_per_sample: int | None = None
    training: Callable[[], Training] | None = None
    dimensions: tuple[Dimension, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """The first `batch` rows of `inputs`, contiguous; rows repeat when the set is smaller than the batch."""
        rows = torch.arange(batch) % self.inputs[0].shape[0]
        return tuple(t[rows].contiguous() for t in self.inputs)


def training(workload: Workload) -> Training:
    """What the workload's model can be trained on.

    Raises:
        Unavailable: there is nothing.
    """
    if workload.training is None:
        raise Unavailable("the workload has no rows to train on", "give it a training function: docs/workloads.md")
    return workload.training()


def from_user(build: Callable[[], object], who: str) -> Workload:
    """Call a user's `build` and check what it gives; `who` is the name that messages use.

    ``(module, example inputs)`` is taken for a workload without a metric, calibrated on its own example.

    Raises:
        PyprodError: `build` raises, or what it gives is no workload. The returned workload's `model` raises it too,
            when the module does not take the inputs or gives something else than one tensor, batch first.
    """
    made = _call(build, f"{who} raised")
    match made:
        case Workload():
            workload = made
        case (nn.Module() as module, Tensor() | tuple() as example):
            inputs = (example,) if isinstance(example, Tensor) else example
            workload = Workload(module.eval, inputs, inputs, score=None)
        case _:
            want = "a pyprod.workloads.Workload or (module, example inputs)"
            raise PyprodError(f"{who} must return {want}, got {type(made).__name__}")
    _check_rows(workload, who)
    return replace(workload, model=lambda: _checked_model(workload, who))


def _check_rows(workload: Workload, who: str) -> None:
    for name, tensors in (("inputs", workload.inputs), ("calibration", workload.calibration)):
        if not isinstance(tensors, tuple) or not tensors or not all(isinstance(t, Tensor) for t in tensors):
            raise PyprodError(f"{who}: {name} must be a tuple of tensors, got {type(tensors).__name__}")
        rows = [t.shape[0] if t.dim() else 0 for t in tensors]
        if len(set(rows)) > 1 or not rows[0]:
            raise PyprodError(f"{who}: {name} must have the same number of rows, at least 1 each, got {rows}")
    inputs, calibration = ([(*t.shape[1:], t.dtype) for t in ts] for ts in (workload.inputs, workload.calibration))
    if inputs != calibration:
        raise PyprodError(f"{who}: calibration rows must look like input rows, got {calibration} against {inputs}")


def _checked_model(workload: Workload, who: str) -> nn.Module:
    module = _call(workload.model, f"{who}: model() raised")
    if not isinstance(module, nn.Module):
        raise PyprodError(f"{who}: model() must return a torch.nn.Module, got {type(module).__name__}")
    module.eval()
    with torch.inference_mode():
        output: object = _call(lambda: module(*workload.example(2)), f"{who}: the model, called with two rows, raised")
    if not isinstance(output, Tensor):
        raise PyprodError(f"{who}: the model must return one tensor, got {type(output).__name__}")
    if output.dim() == 0 or output.shape[0] != 2:
        raise PyprodError(f"{who}: the model must return a tensor with a row per input row, got {list(output.shape)}")
    return module


def _call(function: Callable[[], Result], problem: str) -> Result:
    try:
        return function()
    except PyprodError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PyprodError(f"{problem} {what} ({place.filename}:{place.lineno})") from error
