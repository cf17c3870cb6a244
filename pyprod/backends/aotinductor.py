"""AOTInductor: the model compiled ahead of time into a library that needs no Python."""

from __future__ import annotations

import torch
from torch import Tensor

from pyprod.backends import Request, Runner, Variant
from pyprod.backends._inductor import no_compiler
from pyprod.backends._runner import Cast, TorchRunner
from pyprod.export.aotinductor import compile_
from pyprod.export.quiet import quiet
from pyprod.gpu.present import torch_device
from pyprod.types import Unavailable

VARIANTS = {
    "fp32": Variant("float32", "float32"),
    "bf16": Variant("bfloat16", "weights and activations in bfloat16"),
}


def available(variant: str, device: str) -> Unavailable | None:
    """Why `variant` can't run on `device`, or None."""
    return torch_device(device) or no_compiler()


def prepare(request: Request) -> Runner:
    """The package as production loads it: from its file, run without the Python wrapper's pytrees."""
    model = Cast(request.model, torch.bfloat16) if request.variant == "bf16" else request.model
    path = request.workdir / "model.pt2"
    example = tuple(t.to(request.device) for t in request.example)
    with torch.no_grad(), quiet():
        program = torch.export.export(model.to(request.device), example)
    compile_(program, path, request.threads)
    run = torch._inductor.aoti_load_package(str(path)).loader.run

    def function(*inputs: Tensor) -> Tensor:
        return run(list(inputs))[0]

    return TorchRunner(function, request, path.stat().st_size)
