"""A student made of some of its teacher's layers (Sanh et al., DistilBERT, 2019)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from pyprod import discover
from pyprod.step import Context, Made
from pyprod.types import PyprodError


def apply(made: Made, context: Context, *, stack: str, keep: Sequence[int]) -> Made:
    """The step: see `subset`."""
    note = f"layers {', '.join(map(str, keep))} of {stack}"
    return replace(made, model=subset(made.model, stack, keep), notes=(*made.notes, note))


def subset(model: nn.Module, stack: str, indexes: Sequence[int]) -> nn.Module:
    """A copy of the model, of whose `stack` only these layers are left, in this order.

    Args:
        stack: name of an nn.ModuleList or nn.Sequential, such as "encoder.layer".

    Raises:
        PyprodError: there is no such stack, or it has no such layer.
    """
    stacks = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential)}
    if stack not in stacks:
        raise PyprodError(discover.unknown("stack of layers", stack, stacks))
    size = len(stacks[stack])
    if not indexes or any(not 0 <= index < size for index in indexes):
        raise PyprodError(f"{stack} has layers 0 to {size - 1}; asked for: {', '.join(map(str, indexes)) or 'none'}")
    student = copy.deepcopy(model)
    layers = student.get_submodule(stack)
    assert isinstance(layers, nn.ModuleList | nn.Sequential)
    kept = [copy.deepcopy(layers[index]) for index in indexes]
    made = nn.ModuleList(kept) if isinstance(layers, nn.ModuleList) else nn.Sequential(*kept)
    if not stack:
        return made
    parent, _, name = stack.rpartition(".")
    setattr(student.get_submodule(parent), name, made)
    return student
