"""What the backends that compile through Inductor share."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyprod.backends import Request, Runner
from pyprod.backends._runner import TorchRunner
from pyprod.export.inductor import building
from pyprod.types import Unavailable


def compiled(model: nn.Module, request: Request, artifact_bytes: int, notes: tuple[str, ...] = ()) -> Runner:
    """A Runner over `model` under torch.compile, compiled when this returns."""
    with building(request.workdir / "inductor", request.threads):
        function: Callable[..., Tensor] = torch.compile(model.to(request.device), dynamic=False)
        breaks = torch._dynamo.utils.counters["graph_break"]
        before = breaks.total()
        runner = TorchRunner(function, request, artifact_bytes)
        runner.run(request.example)
        graph_breaks = breaks.total() - before
    runner.notes = (*notes, "the artifact is the weights: kernels are compiled at each start-up")
    if graph_breaks:
        runner.notes += (f"{graph_breaks} graph breaks: Python runs between the graphs",)
    return runner


def no_compiler() -> Unavailable | None:
    """Why Inductor can't compile C++ here, or None."""
    if shutil.which("g++") or shutil.which("clang++"):
        return None
    return Unavailable("no C++ compiler", "install g++")
