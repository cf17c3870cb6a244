"""Module -> AOTInductor package (.pt2): a shared library compiled ahead of time, weights included."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pyprod.export.inductor import building


def save(model: nn.Module, example: tuple[Tensor, ...], path: Path, threads: int) -> None:
    """Compile the model for the shapes of `example` and write the package at `path`, atomically.

    Args:
        model: module in eval mode, on the device that it will run on.
        example: inputs on that device.
        path: the .pt2 file to write; a folder for the build is made beside it.
        threads: compiler processes at a time.
    """
    temporary = path.with_name(f"partial-{path.name}")
    with building(path.with_suffix(".build"), threads), torch.no_grad():
        program = torch.export.export(model, example)
        torch._inductor.aoti_compile_and_package(program, package_path=str(temporary))
    temporary.replace(path)
