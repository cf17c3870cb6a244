"""Scale moved from channels with outliers into the weights that read them: the same function, closer to it in INT8."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from pyprod.fuse import unstack
from pyprod.fuse._balance import TOKENS, fitted, one_sided, seen, smoothquant
from pyprod.fuse._graph import Argument, arguments, clean, is_call, only_user, shape, tensor
from pyprod.fuse._importance import importances
from pyprod.fuse._trace import trace
from pyprod.nn import linears
from pyprod.types import QuantSpec

aten = torch.ops.aten

_ROWS = 4  # a pass: enough for speed, few enough for memory


@dataclass(frozen=True)
class _Place:
    """A value that linear layers read, and what its channels are proportional to.

    Attributes:
        readers: the layers.
        makers: parameters whose first dimension is the value's channels; of an attention, its values' channels. None
            where something else reads the value as well, they have another use, or it is proportional to none.
        groups: ``(heads, times)``: each head of the makers' channels stands `times` in a row in the value.
    """

    readers: tuple[nn.Linear, ...]
    makers: tuple[Tensor, ...] = ()
    groups: tuple[int, int] = (1, 1)

    def shared(self, scale: Tensor) -> Tensor:
        """Scales ``[k]``, one for all channels that stand for one channel of the makers: the largest of theirs."""
        heads, times = self.groups
        return scale.view(heads, times, -1).amax(1, keepdim=True).expand(heads, times, -1).reshape(-1)


@dataclass(frozen=True)
class Smoothed:
    """What `smooth` did and found.

    Attributes:
        places: how many values now arise smoothed.
        inputs: by name of a layer, what should divide the channels of its input where that is quantized
            (`TensorQuant.smoothing`): of values that the model needs as they are.
        one_sided: names of layers whose inputs lie so far to one side of 0 that zero points at least halve the variance
            of their rounding errors (`TensorQuant.asymmetric`).
    """

    places: int
    inputs: Mapping[str, tuple[float, ...]]
    one_sided: tuple[str, ...] = ()

    @property
    def moved(self) -> str:
        """What a reader of the table must know of the places."""
        return f"scale of outlying channels moved into weights at {self.places} places"

    @property
    def notes(self) -> tuple[str, ...]:
        """The same of all that there is to tell, a clause each."""
        divided = f"inputs of {len(self.inputs)} layers smoothed where they are quantized"
        shifted = f"inputs of {len(self.one_sided)} layers with zero points"
        told = {self.moved: self.places, divided: self.inputs, shifted: self.one_sided}
        return tuple(note for note, there in told.items() if there)


def smooth(model: nn.Module, calibration: tuple[Tensor, ...], strength: float | None = None) -> Smoothed:
    """Rescale the model in place; its outputs stay, but for rounding.

    Channel ``j`` that linear layers with weights ``w [n, k]`` read is divided by a scale where it is made (a norm, a
    linear layer before a product or an attention), and the columns ``w_j`` are multiplied by it. A weight that is tied
    to an embedding gets a copy.

    A value that anything else reads (the norm of a model that normalizes after the residual), that is not proportional
    to weights (what a GELU gives) or to such that have another use stays as it is: what it should be divided by where
    layers quantize it is returned; and so is which values lie on one side of 0.

    What the decoder's perplexity loses then in INT8, all linears and attention, is in docs/fuse.md.

    Args:
        model: float32, in eval mode, on the CPU.
        calibration: inputs ``[n, ...]``.
        strength: None: find at each place what suits it (`_balance.fitted`). A number: SmoothQuant, that share of a
            channel's scale moves.

    Raises:
        Untraceable: torch.export can't take the model.
    """
    module = trace(model, tuple(t[:_ROWS].contiguous() for t in calibration))
    unstack.rewrite(module, QuantSpec({}, {}))
    clean(module)
    places = list(_places(module, model))
    known = seen(model, {place.readers[0] for place in places}, calibration, _ROWS)
    layers = {layer for place in places for layer in place.readers}
    weighs = importances(model, layers, calibration, _ROWS, TOKENS) if strength is None else {}
    _untie(model, [layer for place in places if place.makers for layer in place.readers])
    inputs: dict[nn.Linear, tuple[float, ...]] = {}
    shifted: set[nn.Linear] = set()
    with torch.no_grad():
        for place in places:
            found = known[place.readers[0]]
            if strength is None:
                weights = [(layer.weight.detach(), weighs.get(layer)) for layer in place.readers]
                scale = fitted(found, weights, place.shared)
                if one_sided(found, scale):  # only told now that no channel hides the others
                    scale = fitted(found, weights, place.shared, asymmetric=True)
            else:
                scale = place.shared(smoothquant(found, [layer.weight for layer in place.readers], strength))
            if one_sided(found, scale):
                shifted.update(place.readers)
            if place.makers:
                _rescale(place, scale)
            elif not bool((scale == 1).all()):
                inputs |= dict.fromkeys(place.readers, tuple(scale.tolist()))
    named = {name: inputs[layer] for name, layer in linears(model) if layer in inputs}
    asymmetric = tuple(name for name, layer in linears(model) if layer in shifted)
    return Smoothed(sum(bool(place.makers) for place in places), named, asymmetric)


def _places(module: fx.GraphModule, model: nn.Module) -> Iterator[_Place]:
    uses: dict[int, set[fx.Node]] = defaultdict(set)  # by the address of a parameter: tied ones have one
    for node in module.graph.find_nodes(op="get_attr"):
        uses[tensor(module, node).data_ptr()] |= set(node.users)
    owners: dict[int, set[nn.Linear]] = defaultdict(set)
    for _, layer in linears(model):
        owners[layer.weight.data_ptr()].add(layer)
    read_by: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node in module.graph.find_nodes(op="call_function", target=aten.linear.default):
        read_by[node.args[0]].append(node)
    for value, readers in read_by.items():
        weights = [tensor(module, node.args[1]) for node in readers if node.args[1].op == "get_attr"]
        layers = tuple(layer for weight in weights for layer in owners[weight.data_ptr()])
        if len(layers) != len(readers) or len(set(layers)) != len(layers):
            continue
        if not all(_only_embeddings(uses[weight.data_ptr()] - set(readers)) for weight in weights):
            continue
        made = _makers(value)
        makers = tuple(tensor(module, node) for node in made.parameters)
        if makers and set(value.users) == set(readers) and all(len(uses[m.data_ptr()]) == 1 for m in makers):
            yield _Place(layers, makers, made.groups)
        else:
            yield _Place(layers)


def _only_embeddings(nodes: set[fx.Node]) -> bool:
    return all(is_call(node, aten.embedding.default) for node in nodes)


@dataclass(frozen=True)
class _Made:
    """Where a value comes from: the get_attr nodes of a `_Place`'s makers; none when it is not known here."""

    parameters: tuple[fx.Node, ...] = ()
    groups: tuple[int, int] = (1, 1)


def _makers(value: fx.Node) -> _Made:
    if is_call(value, aten.layer_norm.default, aten.rms_norm.default):
        given = arguments(value)
        return _parameters(given["weight"], given.get("bias")) if len(given["normalized_shape"]) == 1 else _Made()
    if not is_call(value, aten.mul.Tensor):
        return _attention_values(value)
    factors = [factor for factor in value.args if isinstance(factor, fx.Node)]
    for factor in factors:  # a norm's weight, where the norm is spelled out
        if factor.op == "get_attr" and shape(factor) == shape(value)[-1:]:
            return _parameters(factor)
    for factor in factors:
        if is_call(factor, aten.linear.default) and shape(factor) == shape(value) and only_user(factor) is value:
            return _linear_parameters(factor)
    return _Made()


def _attention_values(value: fx.Node) -> _Made:
    """Of ``sdpa(q, k, v).transpose(1, 2)`` with its heads joined: the layer that makes ``v [b, heads, t, d]``."""
    joined = _behind(value, aten.flatten.using_ints, aten.reshape.default, aten.view.default, aten._unsafe_view.default)
    if is_call(joined, aten.contiguous.default, aten.clone.default):
        joined = _behind(joined, aten.contiguous.default, aten.clone.default)
    attention = _behind(joined, aten.transpose.int)
    if joined is None or not is_call(attention, aten.scaled_dot_product_attention.default):
        return _Made()
    b, heads, s, d = shape(attention)
    v, times = attention.args[2], 1
    if joined.args[1:] != (1, 2) or shape(value) != (b, s, heads * d) or only_user(v) is not attention:
        return _Made()
    if is_call(v, aten.repeat_interleave.self_int) and v.args[2] == 1:
        times, v = v.args[1], _behind(v, aten.repeat_interleave.self_int)
    view = _behind(v, aten.transpose.int)
    layer = _behind(view, aten.view.default, aten.reshape.default)
    if not is_call(layer, aten.linear.default) or v.args[1:] != (1, 2) or shape(view)[2:] != (heads // times, d):
        return _Made()
    return replace(_linear_parameters(layer), groups=(heads // times, times))


def _behind(node: Argument, *operators: Callable[..., object]) -> Argument:
    """What `node` reads, if it calls one of `operators` and is the only one to read that; else None."""
    return node.args[0] if is_call(node, *operators) and only_user(node.args[0]) is node else None


def _linear_parameters(node: fx.Node) -> _Made:
    given = arguments(node)
    return _parameters(given["weight"], given["bias"])


def _parameters(*nodes: Argument) -> _Made:
    """Of those that are given, if all are the model's own and there is one."""
    given = tuple(node for node in nodes if node is not None)
    return _Made(given) if all(node.op == "get_attr" for node in given) else _Made()


def _untie(model: nn.Module, layers: list[nn.Linear]) -> None:
    """Give a layer whose weight has a second name in the model a copy of its own."""
    names = Counter(weight.data_ptr() for _, weight in model.named_parameters(remove_duplicate=False))
    for layer in layers:
        if names[layer.weight.data_ptr()] > 1:
            layer.weight = nn.Parameter(layer.weight.detach().clone())


def _rescale(place: _Place, scale: Tensor) -> None:
    heads, times = place.groups
    made = scale.view(heads, times, -1)[:, 0].reshape(-1)
    for maker in place.makers:
        maker.div_(made.view(-1, *[1] * (maker.dim() - 1)))
    for layer in place.readers:
        layer.weight.mul_(scale)
