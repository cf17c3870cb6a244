"""Unstructured pruning: the smallest weights of the whole model become zero.

No dense kernel skips zeros: the model takes as long as before. What it gains is a smaller file once compressed, and a
measure of how much of the model is needed at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pyprod.step import Context, Made
from pyprod.types import PyprodError

_LAYERS = (nn.Linear, nn.Conv2d, nn.Conv1d, nn.Embedding)


def apply(made: Made, context: Context, *, sparsity: float) -> Made:
    """The step: see `prune`."""
    prune(made.model, sparsity)
    return replace(made, notes=(*made.notes, f"{sparsity:.0%} of the weights are zero: no kernel here skips them"))


def prune(model: nn.Module, sparsity: float) -> None:
    """Set that share of all weights of layers to zero, in place: those of least magnitude, wherever they are.

    Biases and norms stay.

    Raises:
        PyprodError: `sparsity` is no share, or there is no layer with weights.
    """
    if not 0 <= sparsity < 1:
        raise PyprodError(f"sparsity is a share of the weights below 1, not {sparsity:g}")
    weights = list(_weights(model))
    if not weights:
        raise PyprodError("the model has no linear layer, convolution or embedding to prune")
    total = sum(w.numel() for w in weights)
    if zeros := round(sparsity * total):
        magnitudes = torch.cat([w.detach().abs().flatten() for w in weights])
        limit = magnitudes.kthvalue(zeros).values
        with torch.no_grad():
            for weight in weights:
                weight[weight.abs() <= limit] = 0


class Gradually:
    """A callback of `pyprod.train.fit`: prunes more and more while training goes on (Zhu and Gupta 2017).

    What was set to zero stays so, by a buffer ``pruned`` of each layer; `finish` takes them away.

    Args:
        sparsity: what is reached at `until`.
        until: share of the training.
    """

    def __init__(self, sparsity: float, until: float = 0.7) -> None:
        if not (0 <= sparsity < 1 and 0 < until <= 1):
            raise PyprodError(f"sparsity is a share below 1 and until one of the training: {sparsity:g}, {until:g}")
        self._sparsity, self._until = sparsity, until

    def __call__(self, model: nn.Module, done: float) -> None:
        layers = list(_layers(model))
        if done == 0:
            for layer in layers:
                layer.register_buffer("pruned", torch.zeros_like(layer.weight, dtype=torch.bool))
            return
        with torch.no_grad():
            for layer in layers:  # the optimizer's momentum has moved them
                layer.weight[layer.pruned] = 0
        left = max(0.0, 1 - done / self._until)
        prune(model, self._sparsity * (1 - left**3))  # what is zero already is the smallest there is
        for layer in layers:
            layer.pruned.copy_(layer.weight == 0)


class KeepZeros(Gradually):
    """A callback of `pyprod.train.fit`: weights that are zero before the training stay so; then `finish`."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def __call__(self, model: nn.Module, done: float) -> None:
        super().__call__(model, done)
        if done == 0:
            for layer in _layers(model):
                layer.pruned.copy_(layer.weight == 0)


def finish(model: nn.Module) -> None:
    """Take away what the callbacks have added to the layers."""
    for layer in _layers(model):
        del layer.pruned


def sparsity(model: nn.Module) -> float:
    """The share of the weights of layers that is zero."""
    weights = list(_weights(model))
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))


def _weights(model: nn.Module) -> Iterator[Tensor]:
    for layer in _layers(model):
        yield layer.weight


def _layers(model: nn.Module) -> Iterator[Any]:
    """Those with weights; of two that share one, the first."""
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, _LAYERS) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            yield module
