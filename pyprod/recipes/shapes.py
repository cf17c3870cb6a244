"""A model of the shapes of a stored state: what pruning, leaving out layers and new biases did to it, done again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyprod.types import PyprodError

#: Layers that know their size by attributes that `_sizes` gives.
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.RMSNorm, nn.Embedding)


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """The model with this state, in eval mode: stacks shortened and layers resized, in place, to what it holds.

    Raises:
        PyprodError: the state is not of such a model, or a layer of a kind that can't be resized differs in shape.
    """
    _shorten(model, state)
    _untie(model, state)
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        bias = state.get(f"{prefix}bias")
        if bias is not None and getattr(module, "bias", bias) is None:
            module.bias = nn.Parameter(torch.empty_like(bias))
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            stored = state.get(prefix + key)
            if stored is not None and stored.shape != tensor.shape:
                _resize(module, key, stored, prefix + key)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise PyprodError(f"the stored model is not of this workload: {' '.join(str(error).split())[:300]}") from error
    return model.eval()


def _shorten(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Drop the last members of stacks, those that have a state here and none there."""
    stacks = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    for name, stack in stacks:
        prefix = f"{name}." if name else ""
        while len(stack) and stack[-1].state_dict() and not _has(state, f"{prefix}{len(stack) - 1}."):
            del stack[-1]


def _untie(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a parameter that the model has under two names, and the state different values of, a copy for each."""
    first: dict[int, str] = {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        other = first.setdefault(id(parameter), name)
        if other != name and name in state and other in state and not torch.equal(state[name], state[other]):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, nn.Parameter(parameter.detach().clone()))


def _has(state: Mapping[str, Tensor], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in state)


def _resize(module: nn.Module, key: str, stored: Tensor, name: str) -> None:
    if not isinstance(module, _KINDS):
        raise PyprodError(f"{name}: a {type(module).__name__} can't be resized to {list(stored.shape)}")
    old = getattr(module, key)
    new = torch.empty(stored.shape, dtype=old.dtype)
    setattr(module, key, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
    if key == "weight":
        for attribute, size in _sizes(module, stored).items():
            setattr(module, attribute, size)


def _sizes(module: nn.Module, weight: Tensor) -> dict[str, Any]:
    """What a layer says of its size, from its weight."""
    shape = tuple(weight.shape)
    match module:
        case nn.Linear():
            return {"out_features": shape[0], "in_features": shape[1]}
        case nn.Conv1d() | nn.Conv2d():
            groups = shape[0] if module.groups == module.out_channels and shape[1] == 1 else module.groups
            return {"out_channels": shape[0], "in_channels": shape[1] * groups, "groups": groups}
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return {"num_features": shape[0]}
        case nn.LayerNorm() | nn.RMSNorm():
            return {"normalized_shape": shape}
        case nn.Embedding():
            return {"num_embeddings": shape[0], "embedding_dim": shape[1]}
    raise AssertionError(f"{type(module)} is none of _KINDS")
