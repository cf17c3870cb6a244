"""torchao under torch.compile: INT8 linears, weights and activations or weights alone.

torchao takes no foreign scales: weights are quantized per channel, activations per token at run time.
"""

from __future__ import annotations

from torch import nn

from pyprod import discover
from pyprod.backends import Request, Runner, Variant
from pyprod.backends._inductor import compiled, no_compiler
from pyprod.backends._runner import pickled_bytes
from pyprod.export.quiet import quiet
from pyprod.gpu.present import torch_device
from pyprod.types import Unavailable

VARIANTS = {
    "int8_dynamic": Variant("int8", "weights per channel, activations per token with scales found at run time"),
    "int8_weight_only": Variant("int8", "weights per channel, arithmetic in float32"),
}


def available(variant: str, device: str) -> Unavailable | None:
    """Why `variant` can't run on `device`, or None."""
    return discover.missing("torchao") or torch_device(device) or no_compiler()


def prepare(request: Request) -> Runner:
    """The model with quantized linears, compiled, as torchao recommends.

    Raises:
        Unavailable: the model has no linear layer.
    """
    linears = sum(isinstance(m, nn.Linear) for m in request.model.modules())
    if not linears:
        raise Unavailable("model has no linear layer, and torchao quantizes nothing else")
    weight_only = request.variant == "int8_weight_only"
    with quiet():
        # Here, not above: it imports all of torch.compile, which takes as long as torch, and listing needs none of it.
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

        quantize_(request.model, Int8WeightOnlyConfig() if weight_only else Int8DynamicActivationInt8WeightConfig())
        artifact = pickled_bytes(request.model, request.workdir)
    return compiled(request.model, request, artifact, (f"{linears} linear layers in int8, the rest in float32",))
