"""Ours: linear layers in INT8 with pyprod's own kernels, on the CPU and on CUDA; eager, or under torch.compile."""

from __future__ import annotations

from torch import fx, nn

from pyprod.backends import Request, Runner, Variant
from pyprod.backends._inductor import compiled, no_compiler
from pyprod.backends._runner import TorchRunner, torch_device, weights_bytes
from pyprod.fuse import Untraceable, fuse
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
    """The model rewritten by `pyprod.fuse`; one that can't be traced gets its linears swapped by `pyprod.nn.convert`.

    Raises:
        Unavailable: the QuantSpec (every linear by default) names no layer.
    """
    quantspec = request.quantspec or dynamic_quantspec(request.model)
    if not quantspec.weights:
        raise Unavailable("model has no linear layer; int8 convolution is not built yet")
    model: nn.Module
    try:
        model = fuse(request.model, quantspec, request.example)
        notes: tuple[str, ...] = (_summary(model, len(quantspec.weights)),)
    except Untraceable as why:
        model = convert(request.model, quantspec)
        notes = (f"{len(quantspec.weights)} linear layers in int8, the rest in float32", f"not fused: {why}")
    artifact = weights_bytes(model, request.workdir)
    if request.variant == "int8_compiled":
        return compiled(model, request, artifact, notes)
    return TorchRunner(model.to(request.device), request, artifact, notes)


def _summary(module: fx.GraphModule, linears: int) -> str:
    """What ran in integers: "36 linear layers in int8, the rest in float32; activation 6, residual 12"."""
    fused = ", ".join(
        f"{name} {count}" for name, count in module.meta["rewritten"].items() if count and name != "linear"
    )
    return f"{linears} linear layers in int8, the rest in float32" + (f"; fused: {fused}" if fused else "")
