"""Fits the small models whose weights are committed: AdamW, one cycle, the same result each time on one machine."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from rich.progress import track
from torch import Tensor, nn

#: Sums are split by thread, so the bits of the result depend on their number; these models are too small for more.
THREADS = 1


def fit(
    model: Callable[[], nn.Module],
    inputs: tuple[Tensor, ...],
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    augment: Callable[[Tensor], Tensor] = lambda first: first,
    seed: int = 0,
) -> nn.Module:
    """Train a new model on all rows of `inputs` and return it in eval mode.

    Args:
        model: makes the model; called once the generator is seeded.
        inputs: ``[n, ...]`` each; the last, incomplete batch of an epoch is left out.
        targets: ``[n, ...]``.
        loss: of outputs and targets of a batch, a scalar.
        epochs: passes over the data, in a new random order each.
        batch: rows per step.
        learning_rate: the highest; it rises over the first 30% of the steps and falls to almost zero.
        weight_decay: of AdamW.
        augment: changes a batch of the first input.
        seed: of weights, order and augmentation.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    net = model().train()
    steps = inputs[0].shape[0] // batch
    optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps)
    order = torch.empty(0, dtype=torch.int64)
    for step in track(range(epochs * steps), "training", disable=not sys.stderr.isatty()):
        if step % steps == 0:
            order = torch.randperm(inputs[0].shape[0])
        rows = order[step % steps * batch :][:batch]
        first, *others = (t[rows] for t in inputs)
        optimizer.zero_grad()
        loss(net(augment(first), *others), targets[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return net.eval()


def shift(images: Tensor, pixels: int) -> Tensor:
    """Each image ``[b, 1, h, w]`` moved by up to `pixels` in both directions, zeros moving in."""
    height, width = images.shape[2:]
    padded = nn.functional.pad(images, (pixels,) * 4)
    y, x = torch.randint(0, 2 * pixels + 1, (2, images.shape[0], 1))
    rows = (y + torch.arange(height))[:, :, None]
    columns = (x + torch.arange(width))[:, None, :]
    return padded[torch.arange(images.shape[0])[:, None, None], 0, rows, columns].unsqueeze(1)


def mirror(images: Tensor) -> Tensor:
    """About half of the images ``[b, 1, h, w]`` with left and right exchanged."""
    chosen = torch.rand(images.shape[0], 1, 1, 1) < 0.5
    return torch.where(chosen, images.flip(3), images)
