"""PyTorch eager: the model as it is, the reference that every other form is compared with."""

from __future__ import annotations

import torch

from pyprod.backends import Request, Runner, Variant
from pyprod.backends._runner import Cast, TorchRunner, weights_bytes
from pyprod.gpu.present import torch_device
from pyprod.types import Unavailable

VARIANTS = {
    "fp32": Variant("float32", "weights and activations in float32"),
    "bf16": Variant("bfloat16", "weights and activations in bfloat16"),
    "fp16": Variant("float16", "weights and activations in float16 (CUDA)"),
}

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def available(variant: str, device: str) -> Unavailable | None:
    """Why `variant` can't run on `device`, or None."""
    if variant == "fp16" and device == "cpu":
        return Unavailable("float16 has no fast CPU path in PyTorch", "use eager.bf16")
    return torch_device(device)


def prepare(request: Request) -> Runner:
    """The model itself, in the variant's dtype, on the device."""
    model = request.model
    if request.variant in _DTYPES:
        model = Cast(model, _DTYPES[request.variant])
    artifact = weights_bytes(model, request.workdir)
    return TorchRunner(model.to(request.device), request, artifact)
