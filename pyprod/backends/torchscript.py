"""TorchScript: traced or scripted, and frozen with its inference optimizations. Deprecated, and still widely served."""

from __future__ import annotations

import torch

from pyprod.backends import Request, Runner, Variant
from pyprod.backends._runner import RELU_HIDES_NAN, TorchRunner
from pyprod.export.quiet import quiet
from pyprod.export.torchscript import load, save
from pyprod.gpu.present import torch_device
from pyprod.types import Unavailable

VARIANTS = {
    "traced": Variant("float32", "traced"),
    "scripted": Variant("float32", "compiled from the code of forward, weights frozen, optimize_for_inference"),
    "frozen": Variant("float32", "traced, weights frozen, optimize_for_inference"),
}


def available(variant: str, device: str) -> Unavailable | None:
    """Why `variant` can't run on `device`, or None."""
    return torch_device(device)


def prepare(request: Request) -> Runner:
    """The module as production loads it: from its file.

    Raises:
        Unavailable: the variant is "scripted", and torch.jit.script can't take the model's code.
    """
    frozen, scripted = request.variant != "traced", request.variant == "scripted"
    path = request.workdir / "model.pt"
    save(request.model.to(request.device), tuple(t.to(request.device) for t in request.example), path, frozen, scripted)
    module = load(path, request.device)
    if frozen:
        with quiet():
            module = torch.jit.optimize_for_inference(module)
    hides_nan = frozen and request.device == "cpu"  # where convolution and ReLU become one oneDNN primitive
    return TorchRunner(module, request, path.stat().st_size, (RELU_HIDES_NAN,) if hides_nan else ())
