"""A whole CNN whose convolutions and linears the QuantSpec names with static scales -> one ``int8_cnn(x, plan)``.

``relu(add(batch_norm(conv2d(x)), shortcut))`` becomes one step, int8 to int8; `_cnn_chain` collects the steps. All or
nothing: a network of 20 us can't afford a return to Python between its layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from pyprod.fuse._cnn_chain import Chain, Step, collect
from pyprod.fuse._graph import call, constant
from pyprod.fuse._trace import Untraceable
from pyprod.kernels.cnn import CnnStep, CnnValue, pack_cnn
from pyprod.nn import linear_scale, quantize_weight
from pyprod.types import QuantSpec, TensorQuant

aten, ours = torch.ops.aten, torch.ops.pyprod


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Replace the graph between input and output; 1, or 0 where the QuantSpec names no convolution.

    Raises:
        Untraceable: it names one, and the network has an operator that no step computes.
    """
    convolutions = module.graph.find_nodes(op="call_function", target=aten.conv2d.default)
    if not any(str(node.args[1].target).removesuffix(".weight") in quantspec.weights for node in convolutions):
        return 0
    chain = collect(module)
    values, steps = _plan(chain, quantspec)
    (output,) = module.graph.find_nodes(op="output")
    plan = constant(module, output, "plan", pack_cnn(values, steps))
    features = values[-1].shape[0] * values[-1].shape[1] * values[-1].shape[2]
    made = call(module, output, ours.int8_cnn.default, chain.input, plan, features)
    output.replace_input_with(output.args[0], made)
    for node in reversed(list(module.graph.nodes)):  # not left to dead-code elimination: it keeps relu_ in place
        if node.op == "call_function" and node is not made:
            module.graph.erase_node(node)
    return 1


def _plan(chain: Chain, quantspec: QuantSpec) -> tuple[list[CnnValue], list[CnnStep]]:
    """Values and steps numbered in order, the output last."""
    order = [chain.input, *(step.output for step in chain.steps)]
    index = {node: i for i, node in enumerate(order)}
    quants = _quantizations(chain, quantspec)
    values = []
    for node in order:
        quant = quants.get(node)
        sizes = chain.shapes[node]
        values.append(CnnValue(sizes) if quant is None else CnnValue(sizes, quant.scale[0], quant.zero_point[0]))
    if quants.get(chain.input) is None or quants.get(order[-1]) is not None:
        raise Untraceable("int8_cnn needs an input that a convolution reads and an output that none reads")
    steps = [_step(step, index, quantspec) for step in chain.steps]
    return values, steps


def _step(step: Step, index: Mapping[fx.Node, int], quantspec: QuantSpec) -> CnnStep:
    residual = -1 if step.residual is None else index[step.residual]
    where = (step.kind, index[step.input], index[step.output], residual, *step.window)
    if step.weight is None:
        return CnnStep(*where)
    quant = quantspec.weights[step.name]
    w_scale = linear_scale(step.name, step.weight.flatten(1), quant, _PER_TOKEN)
    w_q = quantize_weight(step.weight.flatten(1), w_scale, quant.bits).reshape(step.weight.shape)
    # Batch normalization goes into the float side of the sums: the integers stay those that the QuantSpec means.
    return CnnStep(*where, step.relu, w_q, (w_scale * step.factor).contiguous(), step.bias.contiguous())


_PER_TOKEN = TensorQuant("per_token")  # weights alone are asked about


def _quantizations(chain: Chain, quantspec: QuantSpec) -> dict[fx.Node, TensorQuant]:
    """How each value is stored: as the layer that reads it wants it. What no layer reads stays float32."""
    quants: dict[fx.Node, TensorQuant] = {}
    for step in reversed(chain.steps):
        if step.weight is not None:
            quant = quantspec.activations.get(step.name)
            if step.name not in quantspec.weights or quant is None or quant.granularity != "per_tensor":
                raise Untraceable(f"{step.name} has no static per-tensor scale, which int8_cnn needs of every layer")
            if not quant.scale or quant.bits != 8:
                raise Untraceable(f"{step.name}: int8_cnn needs a static 8-bit scale")
            quant = TensorQuant("per_tensor", 8, quant.scale, quant.zero_point or (0,))
        elif step.kind == "max_pool":
            quant = quants.get(step.output)  # the greatest of some integers is one of them
            if quant is None:
                raise Untraceable("int8_cnn pools only what a convolution reads")
        else:
            continue
        if quants.setdefault(step.input, quant) != quant:
            raise Untraceable(f"two layers read one tensor with different scales, at {step.input}")
    return quants
