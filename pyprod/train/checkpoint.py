"""One file that holds all of a training run: weights, optimizer, generators, position in the data."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyprod.types import PyprodError

NAME = "checkpoint.safetensors"
_META = "pyprod"


class Checkpoint(NamedTuple):
    """What is written.

    Attributes:
        tensors: by name.
        meta: JSON values.
    """

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write it whole or not at all: who is killed meanwhile leaves the one before.

    Raises:
        PyprodError: it can't be written; the one before is kept.
    """
    part = path.with_name(f".{path.name}.part")
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata={_META: json.dumps(checkpoint.meta)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise PyprodError(f"can't write {path}: {error}; the checkpoint before it is kept") from error


def load(path: Path) -> Checkpoint:
    """Read one.

    Raises:
        PyprodError: it is damaged, or no checkpoint of a training run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = (file.metadata() or {}).get(_META)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, SafetensorError) as error:
        raise PyprodError(f"{path} is damaged ({error}): delete it to train from the beginning") from error
    if meta is None:
        raise PyprodError(f"{path} is no checkpoint of a training run")
    return Checkpoint(tensors, json.loads(meta))


def part(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """Its tensors whose names begin with ``prefix.``, without it."""
    cut = f"{prefix}."
    return {name.removeprefix(cut): tensor for name, tensor in checkpoint.tensors.items() if name.startswith(cut)}


def optimizer_state(optimizer: torch.optim.Optimizer) -> Checkpoint:
    """An optimizer's state as tensors and JSON values; `restore_optimizer` is the inverse."""
    state = optimizer.state_dict()
    tensors = {f"{index}.{key}": value for index, values in state["state"].items() for key, value in values.items()}
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    return Checkpoint(tensors, {"groups": groups})


def restore_optimizer(optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Put a state back into a new optimizer of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    for group, known in zip(groups, checkpoint.meta["groups"], strict=True):
        group.update({key: tuple(value) if isinstance(value, list) else value for key, value in known.items()})
    optimizer.load_state_dict({"state": state, "param_groups": groups})
