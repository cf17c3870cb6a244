"""A workload that builds in milliseconds, as a user would write one: ``--workload tests/tiny.py:build``."""

from __future__ import annotations

import torch

from pyprod.types import Evaluation
from pyprod.workloads import Workload

CLASSES = 3


def build() -> Workload:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = random(10, 8)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, CLASSES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(random(*parameter.shape) / 2)
        truth = model(inputs).argmax(1)
        truth[0] = (truth[0] + 1) % CLASSES  # nobody is perfect: accuracy 0.9 in float32

    def score(outputs: torch.Tensor) -> Evaluation:
        return Evaluation("mean", (outputs.argmax(1) == truth).float().tolist())

    return Workload(lambda: model, (inputs,), (random(16, 8),), score, unit="row")
