"""Structured pruning: channels, feed-forward width and heads are physically removed.

What must go together (a channel of a convolution, its batch norm, the inputs of all that read it, the other branch of a
residual sum) is found by torch-pruning's dependency graph (Fang et al., DepGraph, CVPR 2023).
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from pyprod.step import Context, Made
from pyprod.types import PyprodError
from pyprod.workloads import training

#: No layer loses more than this share of its channels.
MOST = 0.95
#: The share that each layer loses is sought to within MOST / 2^7, 0.7%.
TRIES = 7
#: Rows whose loss says what is important.
TAYLOR_ROWS = 256


@dataclass(frozen=True)
class Pruned:
    """What pruning left.

    Attributes:
        model: the smaller one.
        macs, parameters: before and after; multiply-accumulates of the example.
        widths: output channels before and after, by name of each layer that lost some.
    """

    model: nn.Module
    macs: tuple[int, int]
    parameters: tuple[int, int]
    widths: Mapping[str, tuple[int, int]]


def apply(
    made: Made,
    context: Context,
    *,
    macs: float,
    round_to: int = 8,
    keep: Sequence[str] = (),
    heads: Mapping[str, int] | None = None,
    importance: Literal["magnitude", "taylor"] = "magnitude",
) -> Made:
    """The step: see `prune`; importance "taylor" is by the loss on the first rows of the training data."""
    if importance not in ("magnitude", "taylor"):
        raise PyprodError(f"importance is magnitude or taylor, not {importance!r}")
    loss = None
    if importance == "taylor":
        data = training(context.workload)
        inputs, targets = tuple(t[:TAYLOR_ROWS] for t in data.inputs), data.targets[:TAYLOR_ROWS]

        def loss(model: nn.Module) -> Tensor:
            return data.loss(model(*inputs), targets)

    found = prune(made.model, context.workload.example(1), macs, round_to=round_to, keep=keep, heads=heads, loss=loss)
    left, parameters = found.macs[1] / found.macs[0], found.parameters[1] / found.parameters[0]
    note = f"{left:.0%} of the multiply-accumulates and {parameters:.0%} of the parameters left"
    return replace(made, model=found.model, notes=(*made.notes, note))


def prune(
    model: nn.Module,
    example: tuple[Tensor, ...],
    macs: float,
    *,
    round_to: int = 8,
    keep: Sequence[str] = (),
    heads: Mapping[str, int] | None = None,
    loss: Callable[[nn.Module], Tensor] | None = None,
) -> Pruned:
    """Remove the least important channels: of each layer the same share, the smallest that reaches `macs`.

    What the model's output consists of stays: its shape does not change. To prune more than half without much loss, do
    it in parts and train in between.

    Args:
        model: float32, on the CPU; it stays as it is.
        example: inputs of the shape that will run.
        macs: share of the multiply-accumulates (`count`) to be left at most, 0 to 1.
        round_to: layers keep a multiple of so many channels: kernels work in blocks.
        keep: globs of names of layers that lose no channels.
        heads: by glob of query, key and value layers, their number of heads; whole heads are then removed, and the
            module must find their number in its layers' sizes.
        loss: of the model, on some data. Importance is then by Taylor expansion of it (Molchanov et al. 2019), else by
            magnitude.

    Raises:
        PyprodError: a name matches nothing; the model can't be traced; that few can't be reached; the pruned model
            does not run or gives another shape.
    """
    if not 0 < macs < 1:
        raise PyprodError(f"the share of multiply-accumulates to be left is between 0 and 1, not {macs:g}")
    before, shape = _run(model, example)
    low, high, found = 0.0, MOST, None
    for attempt in range(TRIES + 1):  # the first is the most that can be removed
        share = high if attempt == 0 else (low + high) / 2
        smaller = copy.deepcopy(model)
        _remove(smaller, example, share, round_to, keep, heads or {}, loss)
        left = _left(smaller, example, shape)
        if left <= macs * before:
            high, found = share, (smaller, left)
        elif found is None:
            raise PyprodError(
                f"with {MOST:.0%} of each layer's channels gone, {left / before:.0%} of the multiply-accumulates are "
                f"left: {macs:.0%} can't be reached"
            )
        else:
            low = share
    assert found is not None
    smaller, left = found
    widths = _widths(model)
    changed = {name: (widths[name], width) for name, width in _widths(smaller).items() if width != widths[name]}
    return Pruned(smaller, (before, left), (_parameters(model), _parameters(smaller)), changed)


def count(model: nn.Module, example: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of linear layers and convolutions (not of attention's products)."""
    return _run(model, example)[0]


def _run(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[int, torch.Size]:
    """Multiply-accumulates, and the shape of the output.

    Counted by hooks: `torch.utils.flop_counter` takes 40 times as long as the model.
    """
    found = 0

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal found
        weight = layer.weight
        assert isinstance(weight, Tensor)
        found += output.numel() * weight[0].numel()

    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(hook) for layer in layers]
    try:
        with torch.inference_mode():
            shape = model(*example).shape
    finally:
        for handle in hooks:
            handle.remove()
    return found, shape


class _Pruner(tp.pruner.BasePruner):  # type: ignore[misc]
    """Rounds to the nearest multiple; the library rounds down: 15 channels of 16 would be 8."""

    def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
        kept = max(1, round((current_channels - n_pruned) / round_to)) * round_to
        return max(current_channels - kept, 0)


def _remove(
    model: nn.Module,
    example: tuple[Tensor, ...],
    share: float,
    round_to: int,
    keep: Sequence[str],
    heads: Mapping[str, int],
    loss: Callable[[nn.Module], Tensor] | None,
) -> None:
    """Remove that share of each layer's channels and heads, in place."""
    layers = dict(model.named_modules())
    by_head = {layers[name]: number for glob, number in heads.items() for name in _matching(layers, glob)}
    if loss is not None:
        loss(model).backward()  # type: ignore[no-untyped-call]
    try:
        pruner = _Pruner(
            model,
            example,
            tp.importance.GroupMagnitudeImportance(p=2) if loss is None else tp.importance.GroupTaylorImportance(),
            pruning_ratio=share,
            round_to=round_to,
            ignored_layers=[layers[name] for glob in keep for name in _matching(layers, glob)],
            num_heads=by_head,
            out_channel_groups={},  # its default is one for all pruners
            prune_num_heads=True,
            prune_head_dims=False,
            head_pruning_ratio=share,
        )
    except Exception as error:  # whatever the model's own code, or the tracer, raises
        raise PyprodError(f"the model can't be traced for pruning: {type(error).__name__}: {error}") from error
    _keep_outputs(pruner)
    pruner.step()
    model.zero_grad(set_to_none=True)


def _keep_outputs(pruner: Any) -> None:
    """Leave alone every layer whose channels reach the model's output through nothing that mixes them."""
    graph = pruner.DG
    for group in graph.get_all_groups(root_module_types=pruner.root_module_types):
        shrunk = [item.dep.target for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)]
        if any(not node.outputs for node in shrunk):
            pruner.ignored_layers += [node.module for node in shrunk if isinstance(node.module, nn.Module)]


def _left(model: nn.Module, example: tuple[Tensor, ...], shape: torch.Size) -> int:
    """Multiply-accumulates of the pruned model.

    Raises:
        PyprodError: it does not run, or not to this shape.
    """
    try:
        left, got = _run(model, example)
    except Exception as error:  # the model's own code
        raise PyprodError(
            f"the pruned model does not run ({type(error).__name__}: {error}): sizes are written into its code; name "
            "the layers before it in keep, or those of attention in heads, or take sizes from the layers"
        ) from error
    if got != shape:
        raise PyprodError(f"the pruned model gives {list(got)} instead of {list(shape)}: name its last layers in keep")
    return left


def _matching(layers: Mapping[str, nn.Module], glob: str) -> Iterator[str]:
    names = [name for name in layers if fnmatch.fnmatch(name, glob)]
    if not names:
        raise PyprodError(f"no layer of the model is named {glob!r}; there are: {', '.join(filter(None, layers))}")
    yield from names


def _widths(model: nn.Module) -> dict[str, int]:
    kinds = (nn.Linear, nn.Conv2d)
    return {name: module.weight.shape[0] for name, module in model.named_modules() if isinstance(module, kinds)}


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
