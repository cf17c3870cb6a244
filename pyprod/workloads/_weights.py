"""From tensors to a model that is ready to run; and the weights this project trained itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyprod.workloads._assets import check, sha256

FOLDER = Path(__file__).parent / "weights"
DIGESTS = FOLDER / "digests.json"

Model = TypeVar("Model", bound=nn.Module)


def restore(make: Callable[[], Model], tensors: Mapping[str, Tensor]) -> Model:
    """The module that `make` describes, in eval mode, with a copy of `tensors` as its whole state.

    Copied rather than mapped from the file: tensors in a safetensors file are aligned to 8 bytes only, and
    alignment alone moves a kernel's time.
    """
    with _NoInit():
        model = make()
    model.load_state_dict(tensors)
    return model.eval()


class _NoInit(TorchFunctionMode):
    """Leaves new weights as they are: they are about to be overwritten. (The meta device costs a 1.1 s import.)"""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Hexadecimal digest of shapes, dtypes and values."""
    out = hashlib.sha256()
    for tensor in tensors:
        out.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        out.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return out.hexdigest()[:24]


def install(name: str, tensors: Mapping[str, Tensor]) -> tuple[Path, bool]:
    """Make `tensors` the committed weights of workload `name`: their file, and whether it was the same before."""
    path = FOLDER / f"{name}.safetensors"
    old = path.read_bytes() if path.is_file() else b""
    part = path.with_suffix(".part")
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part)
    part.chmod(0o644)  # safetensors writes for the owner only
    part.replace(path)
    digests = json.loads(DIGESTS.read_text()) if DIGESTS.is_file() else {}
    part = DIGESTS.with_suffix(".part")
    part.write_text(json.dumps(digests | {path.name: sha256(path)}, indent=2, sort_keys=True) + "\n")
    part.replace(DIGESTS)
    return path, path.read_bytes() == old


def trained(name: str) -> dict[str, Tensor]:
    """The committed weights of workload `name`, made by ``python -m pyprod.train NAME``.

    Raises:
        PyprodError: the file is not there, or is not the one that was committed.
    """
    path = FOLDER / f"{name}.safetensors"
    check(path, json.loads(DIGESTS.read_text()).get(path.name, "none"), f"python -m pyprod.train {name}")
    tensors: dict[str, Tensor] = load_file(path)
    return tensors
