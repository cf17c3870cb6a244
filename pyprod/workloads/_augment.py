"""Images changed at random while a model is trained on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
