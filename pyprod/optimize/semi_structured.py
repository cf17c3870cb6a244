"""2:4 sparsity: of each four weights in a row at most two are not zero, as sparse tensor cores of GPUs want it.

On a CPU it saves no time; where a runtime stores two values and their places for each four, a layer takes 17/32 of its
bytes in float32, 9/16 in float16. On a GPU, PyTorch runs such layers with ``torch.sparse.to_sparse_semi_structured``:
not measured yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from pyprod.step import Context, Made
from pyprod.types import PyprodError

#: Bits of a weight's place among its four.
PLACE_BITS = 2


def apply(made: Made, context: Context) -> Made:
    """The step: see `prune`."""
    names = prune(made.model)
    share = compressed_bytes(made.model) / sum(p.numel() * p.element_size() for p in made.model.parameters())
    note = f"{len(names)} layers 2:4 sparse, {share:.0%} of the bytes where a runtime stores them so; none here does"
    return replace(made, notes=(*made.notes, note))


def prune(model: nn.Module) -> list[str]:
    """Set the two smallest of each four weights along a layer's inputs to zero, in place.

    Layers whose inputs are no multiple of 4 stay as they are.

    Returns:
        Names of the layers that are 2:4 now.

    Raises:
        PyprodError: there is none.
    """
    names = []
    with torch.no_grad():
        for name, weight in _weights(model):
            rows = _by_inputs(weight)
            fours = rows.reshape(-1, 4)
            smallest = fours.abs().topk(2, dim=1, largest=False).indices
            weight.copy_(_as_weight(fours.scatter(1, smallest, 0).view_as(rows), weight))
            names.append(name)
    if not names:
        raise PyprodError("no layer of the model has a multiple of 4 inputs")
    return names


def holds(weight: Tensor) -> bool:
    """Whether a weight ``[n, k]`` or ``[n, k, h, w]`` is 2:4 along its inputs."""
    rows = _by_inputs(weight)
    return rows.shape[1] % 4 == 0 and bool(((rows.reshape(-1, 4) != 0).sum(1) <= 2).all())


def compressed_bytes(model: nn.Module) -> int:
    """Of the model's parameters, those of 2:4 layers stored as two values and their places for each four."""
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    for _, weight in _weights(model):
        if holds(weight):
            kept = weight.numel() // 2
            total -= weight.numel() * weight.element_size() - kept * weight.element_size() - kept * PLACE_BITS // 8
    return total


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and _by_inputs(module.weight).shape[1] % 4 == 0:
            yield name, module.weight


def _by_inputs(weight: Tensor) -> Tensor:
    """As the rows of a matrix product see it: input channels innermost."""
    return weight.detach().movedim(1, -1).flatten(1)


def _as_weight(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(like.movedim(1, -1).shape).movedim(-1, 1)
