"""A small training run: a network with everything that has state, on data whose answer is known."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.train import Settings, fit
from pyprod.workloads import Training


def net() -> nn.Module:
    """Dropout draws from the generator, batch norm keeps statistics."""
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def data(rows: int = 203, model: type[nn.Module] | None = None) -> Training:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, 6, generator=generator)
    labels = (x @ torch.randn(6, 3, generator=generator)).argmax(1)
    return Training(net, (x,), labels, F.cross_entropy, epochs=4, batch=16, learning_rate=0.02, augment=jitter)


def jitter(x: Tensor) -> Tensor:
    return x + 0.01 * torch.randn_like(x)


def run(folder: Path, die_at: int = -1) -> dict[str, Tensor]:
    """Train with a checkpoint every third step; at step `die_at` the process kills itself."""
    steps = iter(range(10_000))  # it is called before the first step, too

    def die(model: nn.Module, done: float) -> None:
        if next(steps) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = Settings(seed=7, checkpoint_steps=3, holdout=0.1, patience=9, clip_norm=1.0)
    return fit(net, data(), settings, callbacks=(die,), folder=folder).model.state_dict()


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
