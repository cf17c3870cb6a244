"""Model -> program (torch.export), with every dimension left open that the model allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyprod.export.quiet import quiet
from pyprod.types import PyprodError
from pyprod.workloads import Dimension

BATCH = "batch"


class Unexportable(PyprodError):
    """torch.export can't make a program of the model."""


@dataclass(frozen=True)
class Traced:
    """A program, and which sizes of its inputs are open.

    Attributes:
        program: of torch.export.
        axes: of each input, the axes that may have another size than the example's, and the dimension's name.
        fixed: by name, why a dimension is not among them.
    """

    program: torch.export.ExportedProgram
    axes: tuple[Mapping[int, str], ...]
    fixed: Mapping[str, str]


def trace(
    model: nn.Module,
    example: tuple[Tensor, ...],
    dimensions: Sequence[Dimension] = (),
    fixed: Mapping[str, str] | None = None,
) -> Traced:
    """Trace with the batch and `dimensions` open; where the model forbids that, with fewer of them.

    Args:
        model: in eval mode.
        example: inputs, batch first.
        dimensions: beside the batch.
        fixed: dimensions not to try, and why: known from before.

    Raises:
        Unexportable: not even with the example's sizes.
    """
    known = dict(fixed or {})
    wanted = [d for d in (_batch(example), *dimensions) if d.name not in known]
    with torch.no_grad(), quiet():
        while True:
            try:
                return Traced(_export(model, example, wanted), axes(example, wanted), known)
            except Exception as error:  # whatever the model's own code raises under symbolic shapes
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                if not wanted:
                    raise Unexportable(f"torch.export can't trace the model: {reason}") from error
                known[wanted.pop().name] = reason


def all_axes(example: tuple[Tensor, ...], dimensions: Sequence[Dimension]) -> tuple[Mapping[int, str], ...]:
    """Of each input, the batch and `dimensions`."""
    return axes(example, (_batch(example), *dimensions))


def axes(example: tuple[Tensor, ...], dimensions: Sequence[Dimension]) -> tuple[Mapping[int, str], ...]:
    """Of each input, its open axes and their names."""
    return tuple(
        {axis: d.name for d in dimensions for position, axis in d.axes if position == index}
        for index in range(len(example))
    )


def _batch(example: tuple[Tensor, ...]) -> Dimension:
    return Dimension(BATCH, tuple((position, 0) for position in range(len(example))))


def _export(
    model: nn.Module, example: tuple[Tensor, ...], dimensions: Sequence[Dimension]
) -> torch.export.ExportedProgram:
    if not dimensions:
        return torch.export.export(model, example)
    symbols = {d.name: torch.export.Dim(d.name, min=d.least, max=d.most) for d in dimensions}
    shapes = tuple({axis: symbols[name] for axis, name in open_.items()} for open_ in axes(example, dimensions))
    rows = torch.arange(2) % example[0].shape[0]  # a batch of 1 would be taken for a constant
    pair = tuple(t[rows] for t in example) if BATCH in symbols else example
    return torch.export.export(model, pair, dynamic_shapes=shapes)
