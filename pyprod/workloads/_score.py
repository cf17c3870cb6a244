"""From outputs to the raw values of a metric, where more than one workload does it the same way."""

from __future__ import annotations

from torch import Tensor

from pyprod.types import Evaluation


def correct(logits: Tensor, labels: Tensor) -> Evaluation:
    """1 where the highest of ``logits [n, classes]`` is that of ``labels [n]``, else 0: the mean is the accuracy."""
    return Evaluation("mean", (logits.argmax(1) == labels).double().tolist())
