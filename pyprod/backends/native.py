"""Ours: the whole model fused to our own INT8 kernels (on CUDA: its linear layers); eager or under torch.compile."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from pyprod.backends import Request, Runner, Variant
from pyprod.backends._blocks import blocked
from pyprod.backends._inductor import compiled, no_compiler
from pyprod.backends._runner import TorchRunner, weights_bytes
from pyprod.fuse import Untraceable, fuse, smooth
from pyprod.gpu.present import torch_device
from pyprod.nn import convert, dynamic_quantspec, layers, static_quantspec
from pyprod.types import Granularity, QuantSpec, Unavailable

_SCHEMES: tuple[Granularity, ...] = ("per_token", "per_tensor")

VARIANTS = {
    "int8": Variant(
        "int8",
        "weights per channel; activations per token with scales found at run time, in CNNs and MLPs calibrated",
        lowers=_SCHEMES,
    ),
    "int8_compiled": Variant("int8", "the same, what remains in float compiled by torch.compile", lowers=_SCHEMES),
}

#: Modules of which a chain of layers is made; what a model's own code does between is seen in the graph alone.
_CHAIN = {nn.Linear, nn.ReLU, nn.Dropout, nn.BatchNorm1d, nn.Identity, nn.Flatten}

#: What passes put into integers beside the layers that a QuantSpec names.
_UNNAMED = {"attention": "attentions", "embedding": "embeddings"}

_Lowered = tuple[nn.Module, tuple[str, ...]]  # the model in int8, and what a reader of the table must know of it


def available(variant: str, device: str) -> Unavailable | None:
    """Why `variant` can't run on `device`, or None."""
    return torch_device(device) or (no_compiler() if variant == "int8_compiled" else None)


def prepare(request: Request) -> Runner:
    """The model fused to INT8 kernels; where it can't be traced whole, with the linears swapped for `Int8Linear`.

    Raises:
        Unavailable: the QuantSpec (every linear by default) names no layer.
    """
    model, notes = _lowered(request)
    artifact = weights_bytes(model, request.workdir)
    if request.variant == "int8_compiled":
        return compiled(model, request, artifact, notes)
    return TorchRunner(model.to(request.device), request, artifact, notes)


def _lowered(request: Request) -> _Lowered:
    notes: tuple[str, ...] = ()
    if request.device == "cpu" and _is_static(request):
        try:
            return _static(request)
        except Untraceable as why:
            if request.quantspec is not None:
                raise Unavailable(f"this QuantSpec of static scales can't be lowered: {why}") from why
            notes = (f"convolutions in float32: {why}",) if _has_convolutions(request.model) else ()
    quantspec = request.quantspec
    if quantspec is None:
        quantspec, found = _smoothed(request)
        notes += found
    if not quantspec.weights:
        raise Unavailable("; ".join(("model has no linear layer", *notes)))
    model, found = _linears(request, quantspec)
    return model, (*notes, *found)


def _is_static(request: Request) -> bool:
    """Whether layers have scales known beforehand: as the QuantSpec says; without one, where that makes few calls.

    A CNN, and a chain of linear layers: of 1 row one call takes 11 us, and 4 with what is between 75.
    """
    if request.quantspec is None:
        leaves = {type(module) for module in request.model.modules() if not list(module.children())}
        return _has_convolutions(request.model) or leaves <= _CHAIN
    return any(quant.granularity == "per_tensor" for quant in request.quantspec.activations.values())


def _has_convolutions(model: nn.Module) -> bool:
    return any(type(module) is nn.Conv2d for module in model.modules())


def _static(request: Request) -> _Lowered:
    """Layers, and what lies between them, as few calls on calibrated int8: one where all layers are in integers.

    Raises:
        Untraceable: a layer has no INT8 form, or calls would be many without need.
    """
    rows = request.calibration[0].shape[0]
    quantspec = request.quantspec or _calibrated(request)
    model = fuse(request.model, quantspec, request.example)
    calls = model.meta["rewritten"]["static"]
    if request.quantspec is None and calls > 1 and not _has_convolutions(request.model):
        raise Untraceable("linear layers with other operators between")
    note = f"{_kinds(request.model, quantspec)} and what lies between them in int8, in "
    note += "one call" if calls == 1 else f"{calls} calls"
    note += f", calibrated on {rows} rows" if request.quantspec is None else ""
    counts = model.meta["rewritten"]
    others = [f"{counts[kind]} {name}" for kind, name in _UNNAMED.items() if counts[kind]]
    beside = (f"{' and '.join(others)} in int8 too, which no QuantSpec names",) if others else ()
    left = [name for name, _ in layers(request.model) if name not in quantspec.weights]
    kept = (f"in float32: {', '.join(left)}",) if left else ()
    return model, (note, *beside, *kept, "an image that holds NaN gives a row of NaN")


def _calibrated(request: Request) -> QuantSpec:
    """Of every layer that the kernels compute: not of grouped convolutions.

    Raises:
        Untraceable: there is none.
    """
    spec = static_quantspec(request.model, request.calibration)
    grouped = {name for name, layer in layers(request.model) if isinstance(layer, nn.Conv2d) and layer.groups != 1}
    if not spec.weights.keys() - grouped:
        raise Untraceable("no layer but grouped convolutions")
    return QuantSpec(
        *({n: q for n, q in side.items() if n not in grouped} for side in (spec.weights, spec.activations))
    )


def _kinds(model: nn.Module, quantspec: QuantSpec) -> str:
    """ "9 convolutions and 1 linear layer"."""
    found = Counter("convolution" if isinstance(layer, nn.Conv2d) else "linear layer"
                    for name, layer in layers(model) if name in quantspec.weights)  # fmt: skip
    return " and ".join(f"{count} {kind}" + "s" * (count > 1) for kind, count in found.items())


def _smoothed(request: Request) -> tuple[QuantSpec, tuple[str, ...]]:
    """Every linear layer, and what smoothing there is to tell of."""
    try:
        found = smooth(request.model, request.calibration)
    except Untraceable:
        return dynamic_quantspec(request.model), ()  # `_linears` says why
    return dynamic_quantspec(request.model, smoothing=found.inputs, asymmetric=found.one_sided), found.notes


def _linears(request: Request, quantspec: QuantSpec) -> _Lowered:
    """Linear layers, and what the fused graph has beside them, on scales found at run time."""
    try:
        if request.device != "cpu":
            raise Untraceable("the fused operators run on the CPU only")
        module = fuse(request.model, quantspec, request.example)
    except Untraceable as why:
        swapped = f"{_layers(quantspec)} in int8, the rest in float32"
        return convert(request.model, quantspec), (swapped, f"not fused: {why}")
    notes = (_summary(module, quantspec),)
    if request.variant == "int8_compiled":
        return module, notes
    model, blocks = blocked(module, lambda rows: fuse(request.model, quantspec, rows), request.example)
    return model, notes + blocks


def _layers(quantspec: QuantSpec) -> str:
    """ "210 linear layers (209 with weights of 4 bits)"."""
    few = [quant for quant in quantspec.weights.values() if quant.granularity == "per_group"]
    return f"{len(quantspec.weights)} linear layers" + (f" ({len(few)} with weights of 4 bits)" if few else "")


def _summary(module: fx.GraphModule, quantspec: QuantSpec) -> str:
    """What ran in integers: "36 linear layers and 6 attentions in int8, the rest in float32; fused: norm 12, ..."."""
    counts = dict(module.meta["rewritten"])
    others = [f"{count} {name}" for kind, name in _UNNAMED.items() if (count := counts.pop(kind))]
    integers = " and ".join([_layers(quantspec), *others])
    fused = ", ".join(f"{name} {count}" for name, count in counts.items() if count and name != "linear")
    return f"{integers} in int8, the rest in float32" + (f"; fused: {fused}" if fused else "")
