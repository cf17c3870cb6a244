"""The swap of a model's layers for INT8 ones, and the default scheme of a float model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from torch import nn

from pyprod import discover
from pyprod.nn.int4 import Int4Linear, int4_weight
from pyprod.nn.linear import Int8Linear, int8_weight, multiplier
from pyprod.types import PyprodError, QuantSpec, TensorQuant


def dynamic_quantspec(
    model: nn.Module,
    bits: int = 8,
    group_size: int = 0,
    smoothing: Mapping[str, Sequence[float]] = MappingProxyType({}),
    asymmetric: Collection[str] = (),
) -> QuantSpec:
    """The default scheme of a float model: every nn.Linear, weights per channel, activations per token at run time.

    Args:
        bits: of the weights; the activations have 8.
        group_size: weights per group of so many inputs instead.
        smoothing: of the inputs of some layers, by their names: see `TensorQuant`.
        asymmetric: names of layers whose inputs have zero points, where weights are per channel.

    Subclasses of nn.Linear are left out: their owners read the weight directly (nn.MultiheadAttention does).
    """
    weights, activations = {}, {}
    for name, linear in linears(model):
        shifted = name in asymmetric and not group_size
        activations[name] = TensorQuant("per_token", smoothing=tuple(smoothing.get(name, ())), asymmetric=shifted)
        if group_size:
            weights[name] = TensorQuant("per_group", bits, group_size=group_size)
        else:
            scale = int8_weight(name, linear.weight, TensorQuant("per_channel", bits), activations[name])[1]
            weights[name] = TensorQuant("per_channel", bits, tuple(scale.tolist()))
    return QuantSpec(weights, activations)


def convert(model: nn.Module, quantspec: QuantSpec) -> nn.Module:
    """Replace the nn.Linear layers that `quantspec` names by `Int8Linear` or, per group, `Int4Linear`, in place.

    The result is for inference: its remaining parameters no longer require gradients.

    Returns:
        The model (a new module when the model itself is the layer).

    Raises:
        PyprodError: a name is not an nn.Linear of the model, or its scheme is not one that either computes.
    """
    layers = dict(linears(model))
    for name in quantspec.weights:
        if name not in layers:
            raise PyprodError(discover.unknown("nn.Linear", name, layers))
    made: dict[int, nn.Module] = {}  # one layer under two names stays one layer
    for name, quant in quantspec.weights.items():
        linear = layers[name]
        converted = _converted(name, linear, quant, quantspec.activations.get(name))
        made.setdefault(id(linear), converted.train(linear.training))
    for name in quantspec.weights:  # only now: a refusal leaves the model as it was
        if not name:
            return made[id(layers[name])]
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[id(layers[name])])
    return model.requires_grad_(False)


def _converted(name: str, linear: nn.Linear, quant: TensorQuant, activation: TensorQuant | None) -> nn.Module:
    if quant.granularity == "per_group":
        return Int4Linear(int4_weight(name, linear.weight, quant, activation), linear.bias, multiplier(activation))
    q, scale = int8_weight(name, linear.weight, quant, activation)
    shifted = activation is not None and activation.asymmetric
    return Int8Linear(q, scale, linear.bias, multiplier=multiplier(activation), asymmetric=shifted)


def linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Every nn.Linear under each of its names, subclasses left out."""
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) is nn.Linear:
            yield name, module


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Every nn.Linear and nn.Conv2d under each of its names, subclasses left out."""
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in (nn.Linear, nn.Conv2d):
            yield name, module
