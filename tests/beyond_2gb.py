"""A model whose weights no single ONNX file can hold, 2.4 GB of them: ``pyprod export tests/beyond_2gb.py:build``."""

from __future__ import annotations

import torch
from torch import nn

from pyprod.types import Evaluation
from pyprod.workloads import Workload

WIDTH, LAYERS = 8192, 9


def build() -> Workload:
    """64 rows of noise through nine linear layers; the metric says nothing."""
    inputs = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(1))
    return Workload(_model, (inputs,), (inputs[:8],), lambda y: Evaluation("mean", y.mean(1).tolist()), unit="row")


def _model() -> nn.Module:
    torch.manual_seed(0)
    stack = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*stack).eval()
