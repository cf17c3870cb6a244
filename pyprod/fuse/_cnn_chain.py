"""From a traced CNN to a chain of steps: convolutions with what follows them folded in, and pools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, fx

from pyprod.fuse._graph import arguments, shape, tensor
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
        return self.alias[node]

    def open(self, node: fx.Node) -> Step | None:
        """The convolution whose result `node` is, if nothing else reads it: more can be folded into it."""
        value = self.alias.get(node)
        if len(node.users) != 1 or value is None or sum(v is value for v in self.alias.values()) != 1:
            return None
        found = (s for s in self.steps if s.output is value and s.weight is not None and not s.relu)
        return next(found, None)

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self._name(step.output)

    def extend(self, step: Step, node: fx.Node) -> None:
        """Let the step's result be `node`."""
        del self.alias[step.output], self.shapes[step.output]
        step.output = node
        self._name(node)

    def _name(self, node: fx.Node) -> None:
        self.alias[node] = node
        sizes = shape(node)
        channels, height, width = (*sizes[1:], 1, 1) if len(sizes) == 2 else sizes[1:]
        self.shapes[node] = (height, width, channels)


def collect(module: fx.GraphModule) -> Chain:
    """The steps of a graph with one image input and one output.

    Raises:
        Untraceable: it has an operator, or a use of one, that no step computes.
    """
    inputs = module.graph.find_nodes(op="placeholder")
    (output,) = module.graph.find_nodes(op="output")
    if len(inputs) != 1 or len(shape(inputs[0])) != 4 or not isinstance(output.args[0], fx.Node):
        raise Untraceable("int8_cnn takes one image tensor and gives one tensor")
    chain = Chain(module, inputs[0])
    chain._name(inputs[0])
    for node in module.graph.nodes:
        if node.op == "call_function":
            handler = _HANDLERS.get(node.target)
            if handler is None or not handler(chain, node):
                raise Untraceable(f"no INT8 form of {node.target} as it is used at {node}")
    if len(shape(output.args[0])) != 2 or chain.value(output.args[0]) is not chain.steps[-1].output:
        raise Untraceable("int8_cnn gives [batch, features], made by the last step")
    return chain


def _layer(chain: Chain, node: fx.Node, weight: fx.Node, bias: fx.Node | None) -> Step | None:
    if weight.op != "get_attr" or (bias is not None and bias.op != "get_attr"):
        return None
    values = tensor(chain.module, weight).detach().float()
    step = Step("conv", chain.value(_first(node)), node, name=str(weight.target).removesuffix(".weight"))
    step.weight = values if values.dim() == 4 else values[:, :, None, None]
    step.factor = torch.ones(values.shape[0])
    step.bias = torch.zeros(values.shape[0]) if bias is None else tensor(chain.module, bias).detach().float()
    return step


def _conv(chain: Chain, node: fx.Node) -> bool:
    given = arguments(node)
    step = _layer(chain, node, given["weight"], given["bias"])
    if step is None or step.weight is None or given["groups"] != 1:
        return False
    kernel = (int(step.weight.shape[2]), int(step.weight.shape[3]))
    step.window = (kernel, _pair(given["stride"]), _pair(given["padding"]), _pair(given["dilation"]))
    chain.add(step)
    return True


def _linear(chain: Chain, node: fx.Node) -> bool:
    given = arguments(node)
    value = chain.value(_first(node))
    step = _layer(chain, node, given["weight"], given["bias"])
    if step is None or len(shape(node)) != 2 or chain.shapes[value][:2] != (1, 1):
        return False
    chain.add(step)
    return True


def _batch_norm(chain: Chain, node: fx.Node) -> bool:
    given = arguments(node)
    step = chain.open(_first(node))
    if step is None or step.residual is not None or given["training"]:
        return False
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
    chain.add(Step("max_pool", chain.value(_first(node)), node, window))
    return not given["ceil_mode"]


def _mean(chain: Chain, node: fx.Node) -> bool:
    """Over all of height and width."""
    dims = sorted(d % 4 for d in arguments(node)["dim"] or ())
    if len(shape(_first(node))) != 4 or dims != [2, 3]:
        return False
    chain.add(Step("mean", chain.value(_first(node)), node))
    return True


def _adaptive_mean(chain: Chain, node: fx.Node) -> bool:
    chain.add(Step("mean", chain.value(_first(node)), node))
    return shape(node)[2:] == (1, 1)


def _same(chain: Chain, node: fx.Node) -> bool:
    """Another shape of one pixel of channels."""
    value = chain.value(_first(node))
    chain.alias[node] = value
    return chain.shapes[value][:2] == (1, 1) and shape(node)[:2] == (shape(value)[0], chain.shapes[value][2])


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
