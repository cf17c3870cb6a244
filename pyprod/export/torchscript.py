"""Module -> TorchScript file, traced. Deprecated in PyTorch, and still what many fleets run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pyprod.export.quiet import quiet


def save(model: nn.Module, example: tuple[Tensor, ...], path: Path, frozen: bool = False) -> None:
    """Trace the model on `example` and save it at `path`.

    Args:
        model: module in eval mode; what its forward decides in Python is decided once, for this example.
        example: inputs of the shapes that will run.
        path: the .pt file to write, atomically.
        frozen: make weights constants and fold what then is constant.
    """
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(model, example, check_trace=False)  # type: ignore[no-untyped-call]
        if frozen:
            traced = torch.jit.freeze(traced.eval())
        temporary = path.with_name(f".{path.name}")
        torch.jit.save(traced, str(temporary))
    temporary.replace(path)


def load(path: Path, device: str) -> torch.jit.ScriptModule:
    """The module of a file that `save` wrote, its tensors on `device`."""
    with quiet():
        module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    return module
