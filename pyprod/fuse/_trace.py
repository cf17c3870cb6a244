"""From a module to a graph of ATen operators whose weights keep their names."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, fx, nn

from pyprod import discover
from pyprod.fuse._graph import clean, dtype, is_call, replace, tensor
from pyprod.nn import layers
from pyprod.types import PyprodError, QuantSpec

aten = torch.ops.aten


class Untraceable(PyprodError):
    """torch.export can't take a model."""


def trace(model: nn.Module, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """The eval-mode model as a graph of ATen operators, without what only checks or does nothing.

    Raises:
        Untraceable: with the first line of torch.export's reason.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export's own deprecations
            exported = torch.export.export(model, example).module()
    except Exception as error:  # whatever the user's code raises under tracing
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Untraceable(f"torch.export can't trace the model: {reason}") from error
    module = fx.GraphModule(exported, exported.graph, "Fused")
    module.requires_grad_(False)
    _return_plainly(module, exported)
    for node in list(module.graph.nodes):
        if node.op == "call_module" or is_call(node, aten._assert_tensor_metadata.default):
            module.graph.erase_node(node)  # checks of shapes and dtypes: ours are those of the example
        elif _does_nothing(node):
            replace(node, node.args[0])
    clean(module)
    return module


def canonical(model: nn.Module, quantspec: QuantSpec, module: fx.GraphModule) -> QuantSpec:
    """The QuantSpec with each layer under the name that its weight has in the graph (tied layers have several).

    Raises:
        PyprodError: a name is no nn.Linear or nn.Conv2d of the model.
    """
    known_layers = dict(layers(model))
    names: dict[int, str] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        names.setdefault(tensor(module, node).data_ptr(), str(node.target).rpartition(".")[0])
    weights, activations = {}, {}
    for name, quant in quantspec.weights.items():
        if name not in known_layers:
            raise PyprodError(discover.unknown("nn.Linear or nn.Conv2d", name, known_layers))
        known = names.get(known_layers[name].weight.data_ptr(), name)
        weights[known] = quant
        if name in quantspec.activations:
            activations[known] = quantspec.activations[name]
    return QuantSpec(weights, activations)


def _return_plainly(module: fx.GraphModule, exported: nn.Module) -> None:
    """Take tensors and give one or a tuple of them; torch.export wraps both in trees."""
    (output,) = module.graph.find_nodes(op="output")
    if exported._out_spec.is_leaf():
        output.args = (output.args[0][0],)
    elif exported._out_spec.type is not tuple:
        raise Untraceable(f"the model returns a {exported._out_spec.type.__name__}, not tensors")
    module.graph.set_codegen(fx.graph.CodeGen())


def _does_nothing(node: fx.Node) -> bool:
    if is_call(node, aten.dropout.default):
        return not node.args[2]
    if is_call(node, aten.to.dtype):
        return dtype(node) == dtype(node.args[0])
    return is_call(node, aten.detach.default, aten.alias.default)
