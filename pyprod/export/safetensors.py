"""safetensors: the weights alone, for whoever has the model's code; read without running any."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from pyprod.export.order import Order, Reader, Written
from pyprod.export.program import all_axes

SUFFIX = ".safetensors"
NUMERICS = "float32"


def write(order: Order, path: Path) -> Written:
    """Write `path`; tensors that the model has under two names are there once."""
    save_model(order.model, str(path), metadata=dict(order.metadata))
    path.chmod(0o644)  # made readable by its owner only
    return Written(all_axes(order.example, order.dimensions))


def readers(order: Order, path: Path) -> dict[str, Reader]:
    """The model's code with the file's weights."""
    model = copy.deepcopy(order.model)
    for parameter in model.parameters():
        parameter.data = torch.full_like(parameter, torch.nan)  # so that no weight can be missing unseen
    load_model(model, str(path))

    def read(inputs: tuple[Tensor, ...]) -> Tensor:
        with torch.inference_mode():
            output: Tensor = model(*inputs)
        return output

    return {"torch": read}
