"""Rewrite a whole model to INT8: `fuse` traces it to a graph, then every file of this room rewrites its pattern there.

A pass is a file; its name is its registration. It has a module docstring that shows the pattern, and::

    AFTER = ("linear",)                                     # optional: passes that must have run before it
    def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int: ...   # changes the graph, returns how many places

Passes run in the order of `AFTER`, by name where that leaves a choice. A name in `AFTER` that is no pass is an error.

What a pass can rely on:

- The graph holds ATen operators as torch.export gives them (``torch.ops.aten.linear.default``) and, once ``linear``
  ran, ``torch.ops.pyprod`` operators. Shapes are those of the example: ``node.meta["val"]`` is a fake tensor
  (`_graph.shape`).
- Weights are ``get_attr`` nodes; their targets are the names in the model ("layer.0.query.weight"), so that
  "layer.0.query" is the key in the QuantSpec.
- A constant that a pass computes becomes a buffer by `_graph.constant`; what nothing reads any more is dropped at the
  end, the float weights with it. Dead nodes are removed after each pass.

What it must keep: a node that it adds has ``meta["val"]`` (`_graph.call` computes it by the operator's fake), and a
value that something else reads as well is not fused away (`_graph.only_user`).
"""

from __future__ import annotations

from graphlib import TopologicalSorter
from types import ModuleType

from torch import Tensor, fx, nn

from pyprod import discover
from pyprod.fuse._graph import clean, flattened
from pyprod.fuse._smooth import Smoothed, smooth
from pyprod.fuse._trace import Untraceable, canonical, trace
from pyprod.types import QuantSpec

__all__ = ["Smoothed", "Untraceable", "fuse", "passes", "smooth"]


def fuse(model: nn.Module, quantspec: QuantSpec, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """The model as a graph of fused INT8 operators, for inputs shaped like `example` only.

    The linears that `quantspec` names compute in INT8 exactly as `pyprod.nn.convert` would make them; what surrounds
    them is merged into them where a pass knows the pattern. ``module.meta["rewritten"]`` maps each pass to the number
    of places that it rewrote.

    Args:
        model: float32, in eval mode, on the CPU; it is left as it is.
        quantspec: names nn.Linear layers of the model.
        example: inputs of the shapes and dtypes that will be run.

    Raises:
        Untraceable: torch.export can't take the model; the message says why. `pyprod.nn.convert` can.
        PyprodError: a name is no nn.Linear of the model, or its scheme is not one that the kernels compute.
    """
    module = trace(model, example)
    spec = canonical(model, quantspec, module)
    rewritten = {}
    for name, rewriter in passes().items():
        rewritten[name] = rewriter.rewrite(module, spec)
        clean(module)
    module = flattened(module)
    module.meta["rewritten"] = rewritten
    return module


def passes() -> dict[str, ModuleType]:
    """Every pass by name, in the order in which they run."""
    found = {name: discover.load(__name__, name) for name in discover.names(__name__)}
    sorter = TopologicalSorter({name: getattr(module, "AFTER", ()) for name, module in found.items()})
    sorter.prepare()
    ordered: dict[str, ModuleType] = {}
    while ready := sorted(sorter.get_ready()):
        ordered |= {name: discover.load(__name__, name) for name in ready}  # refuses a name that is no pass
        sorter.done(*ready)
    return ordered
