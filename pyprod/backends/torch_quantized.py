"""PyTorch's own quantized engines (x86 = FBGEMM or oneDNN, onednn): dynamic on linears, static FX on convolutions.

These engines take no foreign scales: activations are quantized per tensor, found at run time (dynamic) or calibrated
on the request's rows (static), weights per channel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear
from torch.ao.quantization import (
    HistogramObserver,
    QConfig,
    QConfigMapping,
    default_dynamic_quant_observer,
    default_per_channel_weight_observer,
    quantize_dynamic,
)
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from pyprod.backends import Request, Runner, Variant
from pyprod.backends._runner import TorchRunner, calibration_batches, has_vnni, pickled_bytes
from pyprod.export.quiet import quiet
from pyprod.types import Unavailable

VARIANTS = {
    "x86": Variant("int8", "engine x86: weights per channel, activations per tensor"),
    "onednn": Variant("int8", "engine onednn: weights per channel, activations per tensor"),
}

#: Without VNNI the engines' 8-bit products saturate unless activations have 7 bits.
_REDUCE_RANGE = not has_vnni()

#: Rows per calibration pass.
_CALIBRATION_BATCH = 32


def available(variant: str, device: str) -> Unavailable | None:
    """Why `variant` can't run on `device`, or None."""
    if device != "cpu":
        return Unavailable("PyTorch's quantized engines run on the CPU only")
    if variant not in torch.backends.quantized.supported_engines:
        return Unavailable(f"this PyTorch has no quantized engine {variant!r}")
    return None


def prepare(request: Request) -> Runner:
    """The model with its linears replaced, or traced and converted as a whole where most weights are in convolutions.

    Raises:
        Unavailable: the model has neither linears nor convolutions.
    """
    torch.backends.quantized.engine = request.variant
    linear = _weights(request.model, nn.Linear)
    conv = _weights(request.model, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if not linear and not conv:
        raise Unavailable("model has no layer that this backend quantizes")
    with quiet():
        model = _static(request) if conv > linear else _dynamic(request.model)
    granularity = "weights per channel, activations per tensor"
    note = "static over all layers, FX" if conv > linear else "dynamic on linear layers, the rest in float"
    return TorchRunner(model, request, pickled_bytes(model, request.workdir), (note, granularity))


class FullRangeLinear(DynamicLinear):
    """PyTorch's dynamic linear with all 8 bits of the activation where the CPU can add such products exactly.

    PyTorch's own reduces the range to 7 bits everywhere, which doubles the error on CPUs with VNNI.
    """

    def forward(self, x: Tensor) -> Tensor:
        packed = self._packed_params._packed_params
        return torch.ops.quantized.linear_dynamic(x, packed, _REDUCE_RANGE)  # type: ignore[no-any-return]


def _dynamic(model: nn.Module) -> nn.Module:
    qconfig = QConfig(default_dynamic_quant_observer, default_per_channel_weight_observer)  # type: ignore[no-untyped-call]
    swap = {nn.Linear: FullRangeLinear}
    quantized: nn.Module = quantize_dynamic(model, {nn.Linear: qconfig}, mapping=swap)  # type: ignore[no-untyped-call]
    return quantized


def _static(request: Request) -> nn.Module:
    activation = HistogramObserver.with_args(dtype=torch.quint8, reduce_range=_REDUCE_RANGE)
    qconfig = QConfig(activation, default_per_channel_weight_observer)  # type: ignore[no-untyped-call]
    observed = prepare_fx(request.model, QConfigMapping().set_global(qconfig), request.example)
    with torch.inference_mode():
        for rows in calibration_batches(request, _CALIBRATION_BATCH):
            observed(*rows)
    return convert_fx(observed)


def _weights(model: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, kinds) and isinstance(m.weight, Tensor))
