"""torch.compile with Inductor: kernels generated and compiled for this machine at start-up (C++, or Triton on CUDA)."""

from __future__ import annotations

import torch

from pyprod.backends import Request, Runner, Variant
from pyprod.backends._inductor import compiled, no_compiler
from pyprod.backends._runner import Cast, weights_bytes
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
    """The model compiled for the example's shapes; compilation is part of the build."""
    model = Cast(request.model, torch.bfloat16) if request.variant == "bf16" else request.model
    return compiled(model, request, weights_bytes(model, request.workdir))
