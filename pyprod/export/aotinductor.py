"""AOTInductor package: a shared library compiled ahead of time, weights included; runs without Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from pyprod.export.inductor import building
from pyprod.export.order import Order, Reader, Written
from pyprod.export.program import trace

SUFFIX = ".pt2"
NUMERICS = "float32"


def write(order: Order, path: Path) -> Written:
    """Compile and write `path`."""
    traced = trace(order.model, order.example, order.dimensions)
    compile_(traced.program, path, order.threads)
    shutil.rmtree(path.with_suffix(".build"))
    return Written(traced.axes, traced.fixed)


def readers(order: Order, path: Path) -> dict[str, Reader]:
    """The package, as a program in C++ loads it."""
    run = torch._inductor.aoti_load_package(str(path)).loader.run

    def read(inputs: tuple[Tensor, ...]) -> Tensor:
        output: Tensor = run([t.contiguous() for t in inputs])[0]
        return output

    return {"aotinductor": read}


def compile_(program: torch.export.ExportedProgram, path: Path, threads: int) -> None:
    """Compile a program into a package at `path`, atomically.

    Args:
        path: the .pt2 file to write; a folder for the build is made beside it.
        threads: compiler processes at a time.
    """
    temporary = path.with_name(f"partial-{path.name}")
    with building(path.with_suffix(".build"), threads), torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=str(temporary))
    temporary.replace(path)
