"""Ours: linear layers in INT8 with pyprod's own kernels, on the CPU and on CUDA; eager, or under torch.compile."""

from __future__ import annotations

from pyprod.backends import Request, Runner, Variant
from pyprod.backends._inductor import compiled, no_compiler
from pyprod.backends._runner import TorchRunner, torch_device, weights_bytes
from pyprod.nn import convert, dynamic_quantspec
from pyprod.types import Unavailable

VARIANTS = {
    "int8": Variant("int8", "weights per channel, activations per token with scales found at run time"),
    "int8_compiled": Variant("int8", "the same, what remains in float fused by torch.compile"),
}


def available(variant: str, device: str) -> Unavailable | None:
    """Why `variant` can't run on `device`, or None."""
    return torch_device(device) or (no_compiler() if variant == "int8_compiled" else None)


def prepare(request: Request) -> Runner:
    """The model with the linears that the QuantSpec names (all of them by default) swapped for `Int8Linear`.

    Raises:
        Unavailable: there is no such layer.
    """
    quantspec = request.quantspec or dynamic_quantspec(request.model)
    if not quantspec.weights:
        raise Unavailable("model has no linear layer; int8 convolution is not built yet")
    model = convert(request.model, quantspec)
    artifact = weights_bytes(model, request.workdir)
    notes = (f"{len(quantspec.weights)} linear layers in int8, the rest in float32",)
    if request.variant == "int8_compiled":
        return compiled(model, request, artifact, notes)
    return TorchRunner(model.to(request.device), request, artifact, notes)
