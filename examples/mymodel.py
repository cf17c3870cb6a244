"""A model of one's own as a workload: ``pyprod bench --workload examples/mymodel.py:build``.

A real one would load its weights and data from files; this one fits a line to points, to be short.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyprod.types import Evaluation
from pyprod.workloads import Workload


def build() -> Workload:
    """The model, the rows it is scored on, other rows for calibration, and the metric."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(300, 16, generator=generator)
    truth = points.sum(1) + 0.1 * torch.randn(300, generator=generator)
    training, scored = slice(0, 200), slice(200, 300)

    def model() -> nn.Module:
        line = nn.Linear(16, 1)
        fitted = torch.linalg.lstsq(points[training], truth[training, None]).solution
        with torch.no_grad():
            line.weight.copy_(fitted.T)
            line.bias.zero_()
        return line

    def score(outputs: Tensor) -> Evaluation:
        return Evaluation("pearson", outputs.flatten().tolist(), truth[scored].tolist())

    return Workload(model, inputs=(points[scored],), calibration=(points[training],), score=score)


def untested() -> tuple[nn.Module, Tensor]:
    """The short form: a module and example inputs; its speed is measured, and no accuracy."""
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)), torch.randn(8, 16)
