"""Layers that the QuantSpec names with static scales -> ``int8_cnn(x, plan)``, as many of them in one call as can be.

``relu(add(batch_norm(conv2d(x)), shortcut))`` becomes one step, int8 to int8; `_chain` collects the steps of a piece of
the graph, `_pieces` finds the pieces. Where all layers are named that is the whole network, in one call: one of 20 us
can't afford a return to Python between its layers. Where some stay in float, values are floats at the border.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from pyprod.fuse._chain import Chain, Step, collect, is_image
from pyprod.fuse._graph import call, constant, shape
from pyprod.fuse._pieces import Piece, pieces
from pyprod.fuse._trace import Untraceable
from pyprod.kernels.cnn import CnnStep, CnnValue, pack_cnn
from pyprod.nn import int8_weight
from pyprod.types import QuantSpec, TensorQuant

aten, ours = torch.ops.aten, torch.ops.pyprod


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Replace pieces of the graph; the number of calls that they became.

    Raises:
        Untraceable: a named layer has no INT8 form, or not as it is used here.
    """
    static = {name for name, quant in quantspec.activations.items() if quant.granularity == "per_tensor"}
    found = pieces(module.graph, static & quantspec.weights.keys(), lambda piece: _planned(module, piece, quantspec))
    made: dict[fx.Node, fx.Node] = {}
    for piece, (chain, plan) in found:
        x = made.get(piece.input, piece.input)  # another piece's result, where that has been replaced
        made[piece.nodes[-1]] = _replace(module, piece, x, chain, plan)
    return len(found)


_Planned = tuple[Chain, torch.Tensor]


def _planned(module: fx.GraphModule, piece: Piece, quantspec: QuantSpec) -> _Planned:
    """
    Raises:
        Untraceable: the piece can't be one call.
    """
    chain = collect(module, piece)
    order = [chain.input, *(step.output for step in chain.steps)]
    index = {node: i for i, node in enumerate(order)}
    quants = _quantizations(chain, quantspec)
    values = []
    for node in order:
        quant = quants.get(node)
        sizes = chain.shapes[node]
        values.append(CnnValue(sizes) if quant is None else CnnValue(sizes, quant.scale[0], quant.zero_point[0]))
    if quants.get(chain.input) is None or quants.get(order[-1]) is not None:
        raise Untraceable("int8_cnn needs an input that a layer reads and an output that none reads")
    return chain, pack_cnn(values, [_step(step, index, quantspec) for step in chain.steps])


def _step(step: Step, index: Mapping[fx.Node, int], quantspec: QuantSpec) -> CnnStep:
    residual = -1 if step.residual is None else index[step.residual]
    where = (step.kind, index[step.input], index[step.output], residual, *step.window)
    if step.weight is None:
        return CnnStep(*where)
    quant = quantspec.weights[step.name]
    w_q, w_scale = int8_weight(step.name, step.weight.flatten(1), quant, _PER_TOKEN)
    w_q = w_q.reshape(step.weight.shape)
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
                raise Untraceable("int8_cnn pools only what a layer reads")
        else:
            continue
        if quants.setdefault(step.input, quant) != quant:
            raise Untraceable(f"two layers read one tensor with different scales, at {step.input}")
    return quants


def _replace(module: fx.GraphModule, piece: Piece, x: fx.Node, chain: Chain, plan: torch.Tensor) -> fx.Node:
    """Rows of ``[..., C]`` are images of one pixel; what comes out is brought to the shape that it had."""
    last, sizes = piece.nodes[-1], chain.shapes[piece.input]
    data = constant(module, last, f"{last.name}.plan", plan)  # not by a layer's name: one may be used twice
    if len(shape(x)) not in (2, 3) and not is_image(x, sizes):
        x = call(module, last, aten.reshape.default, x, [-1, sizes[2], 1, 1])
    height, width, channels = chain.shapes[chain.value(last)]
    made = call(module, last, ours.int8_cnn.default, x, data, height * width * channels)
    if is_image(last, (height, width, channels)):
        made = call(module, last, aten.view.default, made, [-1, height, width, channels])
        made = call(module, last, aten.permute.default, made, [0, 3, 1, 2])
    elif len(shape(last)) != 2:
        made = call(module, last, aten.view.default, made, [-1, *shape(last)[1:]])
    last.replace_all_uses_with(made)
    for node in reversed(piece.nodes):  # not left to dead-code elimination: it keeps relu_ in place
        module.graph.erase_node(node)
    return made
