"""From a piece of a graph to a chain of steps: layers with what follows them folded in, and pools."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, fx

from pyprod.fuse._graph import arguments, is_call, shape, tensor
from pyprod.fuse._pieces import Piece, layer_name
from pyprod.fuse._trace import Untraceable

aten = torch.ops.aten

Pair = tuple[int, int]


@dataclass
class Step:
    """A CnnStep in the making; values are named by the node that computes them."""

    kind: Literal["conv", "max_pool", "mean"]
    input: fx.Node
    output: fx.Node
    window: tuple[Pair, Pair, Pair, Pair] = ((1, 1), (1, 1), (0, 0), (1, 1))
    residual: fx.Node | None = None
    relu: bool = False
    rows: bool = False  # of a linear layer: channels are the last axis
    name: str = ""
    weight: Tensor | None = None
    factor: Tensor = field(default_factory=lambda: torch.ones(1))
    bias: Tensor = field(default_factory=lambda: torch.zeros(1))


@dataclass
class Chain:
    """Steps in the order in which they run; `shapes` holds height, width and channels of each value."""

    module: fx.GraphModule
    input: fx.Node
    shapes: dict[fx.Node, tuple[int, int, int]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    alias: dict[fx.Node, fx.Node] = field(default_factory=dict)  # a node to the value that it is

    def value(self, node: fx.Node) -> fx.Node:
        """
        Raises:
            Untraceable: it is not of this piece.
        """
        if node not in self.alias:
            raise Untraceable(f"{node} is made elsewhere")
        return self.alias[node]

    def image(self, node: fx.Node) -> fx.Node:
        """The value, if its axes are ``[N, C, H, W]``.

        Raises:
            Untraceable: they are not.
        """
        if not is_image(node, self.shapes[self.value(node)]):
            raise Untraceable(f"{node} is no image")
        return self.value(node)

    def open(self, node: fx.Node) -> Step | None:
        """The convolution whose result `node` is, if nothing else reads it: more can be folded into it."""
        value = self.alias.get(node)
        if len(node.users) != 1 or value is None or sum(v is value for v in self.alias.values()) != 1:
            return None
        found = (s for s in self.steps if s.output is value and s.weight is not None and not s.relu)
        return next(found, None)

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.name(step.output, rows=step.rows)

    def extend(self, step: Step, node: fx.Node) -> None:
        """Let the step's result be `node`."""
        self.alias[node], self.shapes[node] = node, self.shapes.pop(step.output)
        del self.alias[step.output]
        step.output = node

    def name(self, node: fx.Node, rows: bool = False) -> None:
        """A value: an image if it has four axes, or rows of channels."""
        sizes = shape(node)
        channels, height, width = sizes[1:] if len(sizes) == 4 and not rows else (sizes[-1], 1, 1)
        self.alias[node], self.shapes[node] = node, (height, width, channels)


def is_image(node: fx.Node, sizes: tuple[int, int, int]) -> bool:
    """Whether a value of height, width and channels is ``[N, C, H, W]`` in the graph, not ``[..., C]``."""
    height, width, channels = sizes
    return shape(node)[1:] == (channels, height, width)


def collect(module: fx.GraphModule, piece: Piece) -> Chain:
    """The steps of a piece. Its input is an image ``[N, C, H, W]`` or rows ``[..., C]``.

    Raises:
        Untraceable: it has an operator, or a use of one, that no step computes.
    """
    chain = Chain(module, piece.input)
    chain.name(piece.input, rows=is_call(piece.nodes[0], aten.linear.default))
    for node in piece.nodes:
        handler = _HANDLERS.get(node.target)
        if handler is None or not handler(chain, node):
            raise Untraceable(f"no INT8 form of {node.target} as it is used at {node}")
    if not chain.steps or chain.value(piece.nodes[-1]) is not chain.steps[-1].output:
        raise Untraceable(f"{piece.nodes[-1]} is not made by the last step")
    return chain


def _layer(chain: Chain, node: fx.Node, value: fx.Node, rows: bool) -> Step | None:
    weight, bias = (arguments(node)[name] for name in ("weight", "bias"))
    if weight.op != "get_attr" or (bias is not None and bias.op != "get_attr"):
        return None
    values = tensor(chain.module, weight).detach().float()
    step = Step("conv", value, node, rows=rows, name=layer_name(node))
    step.weight = values if values.dim() == 4 else values[:, :, None, None]
    step.factor = torch.ones(values.shape[0])
    step.bias = torch.zeros(values.shape[0]) if bias is None else tensor(chain.module, bias).detach().float()
    return step


def _conv(chain: Chain, node: fx.Node) -> bool:
    given = arguments(node)
    step = _layer(chain, node, chain.image(_first(node)), rows=False)
    if step is None or step.weight is None or given["groups"] != 1:
        return False
    kernel = (int(step.weight.shape[2]), int(step.weight.shape[3]))
    step.window = (kernel, _pair(given["stride"]), _pair(given["padding"]), _pair(given["dilation"]))
    chain.add(step)
    return True


def _linear(chain: Chain, node: fx.Node) -> bool:
    value = chain.value(_first(node))
    step = _layer(chain, node, value, rows=True)
    if step is None or step.weight is None or chain.shapes[value] != (1, 1, step.weight.shape[1]):
        return False
    chain.add(step)
    return True


def _batch_norm(chain: Chain, node: fx.Node) -> bool:
    given = arguments(node)
    step = chain.open(_first(node))
    if step is None or step.residual is not None or given["training"] or (step.rows and len(shape(node)) != 2):
        return False  # it normalizes the second axis, where a linear layer's channels are the last
    mean, variance = (tensor(chain.module, given[name]).float() for name in ("running_mean", "running_var"))
    factor = (variance + given["eps"]).rsqrt()
    if given["weight"] is not None:
        factor = factor * tensor(chain.module, given["weight"]).detach().float()
    step.bias = (step.bias - mean) * factor
    if given["bias"] is not None:
        step.bias = step.bias + tensor(chain.module, given["bias"]).detach().float()
    step.factor = step.factor * factor
    chain.extend(step, node)
    return True


def _relu(chain: Chain, node: fx.Node) -> bool:
    step = chain.open(_first(node))
    if step is None:
        return False
    step.relu = True
    chain.extend(step, node)
    return True


def _add(chain: Chain, node: fx.Node) -> bool:
    """Into the convolution that ran last; the other summand is made by then."""
    a, b = (arguments(node)[name] for name in ("self", "other"))
    if node.kwargs or not isinstance(b, fx.Node) or a is b or shape(a) != shape(b):
        return False
    found = [(step, other) for one, other in ((a, b), (b, a)) if (step := chain.open(one)) and step.residual is None]
    if not found:
        return False
    step, other = max(found, key=lambda pair: chain.steps.index(pair[0]))
    step.residual = chain.value(other)
    chain.steps.remove(step)  # the other may have been made after it
    chain.steps.append(step)
    chain.extend(step, node)
    return True


def _max_pool(chain: Chain, node: fx.Node) -> bool:
    given = arguments(node)
    kernel, padding, dilation = (_pair(given[name]) for name in ("kernel_size", "padding", "dilation"))
    window = (kernel, _pair(given["stride"]) if given["stride"] else kernel, padding, dilation)
    chain.add(Step("max_pool", chain.image(_first(node)), node, window))
    return not given["ceil_mode"]


def _mean(chain: Chain, node: fx.Node) -> bool:
    """Over all of height and width."""
    dims = sorted(d % 4 for d in arguments(node)["dim"] or ())
    if len(shape(_first(node))) != 4 or dims != [2, 3]:
        return False
    chain.add(Step("mean", chain.image(_first(node)), node))
    return True


def _adaptive_mean(chain: Chain, node: fx.Node) -> bool:
    chain.add(Step("mean", chain.image(_first(node)), node))
    return shape(node)[2:] == (1, 1)


def _same(chain: Chain, node: fx.Node) -> bool:
    """Another shape of one pixel of channels."""
    value = chain.value(_first(node))
    chain.alias[node] = value
    pixel = (shape(value)[0], chain.shapes[value][2])
    return chain.shapes[value][:2] == (1, 1) and shape(node)[:2] == pixel and math.prod(shape(node)) == math.prod(pixel)


def _first(node: fx.Node) -> fx.Node:
    found: fx.Node = next(iter(arguments(node).values()))
    return found


def _pair(value: int | list[int]) -> Pair:
    if isinstance(value, int):
        return (value, value)
    return (value[0], value[-1])


_HANDLERS: dict[object, Callable[[Chain, fx.Node], bool]] = {
    aten.conv2d.default: _conv,
    aten.linear.default: _linear,
    aten.batch_norm.default: _batch_norm,
    aten.relu.default: _relu,
    aten.relu_.default: _relu,
    aten.add.Tensor: _add,
    aten.add_.Tensor: _add,
    aten.max_pool2d.default: _max_pool,
    aten.mean.dim: _mean,
    aten.adaptive_avg_pool2d.default: _adaptive_mean,
    aten.flatten.using_ints: _same,
    aten.view.default: _same,
    aten.reshape.default: _same,
    aten.squeeze.dims: _same,
}
