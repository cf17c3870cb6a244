"""Layers and models for ``pyprod gate``: the Python around the kernels counts too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.export._trace  # by `fuse`: 1.3 s that both sides spend at once if it is imported here
from torch import nn

from pyprod.fuse import fuse
from pyprod.nn import convert, dynamic_quantspec, static_quantspec


def benchmarks() -> dict[str, Callable]:
    return {
        "mlp/1": partial(mlp, 1),
        "mlp/128": partial(mlp, 128),
        "mlp_fused/128": partial(mlp_fused, 128),
        "cnn/1": partial(cnn, 1),
    }


def _mlp() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(384), nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384)).eval()


def mlp(rows, place):
    """Module by module: what `pyprod.nn.convert` gives a user."""
    model = _mlp()
    convert(model, dynamic_quantspec(model))
    x = place.input(torch.randn(rows, 384))
    return partial(place.module(model), x)


def mlp_fused(rows, place):
    model = _mlp()
    x = place.input(torch.randn(rows, 384))
    return partial(place.module(fuse(model, dynamic_quantspec(model), (x,))), x)


def cnn(images, place):
    """A network of three convolutions, whole, in one call."""
    x = torch.rand(images, 3, 16, 16)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, padding=1))
    pieces = [piece for layer in layers for piece in (layer, nn.ReLU())]
    model = nn.Sequential(*pieces, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()
    fused = fuse(model, static_quantspec(model, (x,)), (x,))
    return partial(place.module(fused), place.input(x))
