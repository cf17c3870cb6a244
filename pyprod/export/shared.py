"""One ONNX file for all candidates of a run: exported by the first process that asks, awaited by the others."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyprod.export import onnx_file
from pyprod.export.program import BATCH, trace


@dataclass(frozen=True)
class Exported:
    """An ONNX file.

    Attributes:
        path: the file, weights included.
        seconds: what the export took, in whichever process made it.
        borrowed_s: `seconds` less what this process spent on exporting, or on waiting for another to do it.
        static_batch: why the batch is fixed to the example's; empty when any batch runs.
    """

    path: Path
    seconds: float
    borrowed_s: float = field(compare=False)
    static_batch: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table must know about the file."""
        shared = f"ONNX export: {self.seconds:.1f} s of the build, done once for all ONNX candidates"
        return (shared, f"static batch: {self.static_batch}") if self.static_batch else (shared,)


def cached(model: nn.Module, example: tuple[Tensor, ...], cache: Path) -> Exported:
    """The model's ONNX file in `cache`: exported by the first process that asks, awaited by the others.

    Args:
        model: float32 module in eval mode on the CPU.
        example: inputs, batch first; the file takes any batch unless the model forbids it.
        cache: folder shared by all candidates of a run.
    """
    start = time.perf_counter()
    key = digest(model, example)
    with _locked(cache / f"{key}.lock"):
        record = cache / f"{key}.json"  # written last: a file that it does not name may have lost its maker
        known: dict[str, Any] = (
            json.loads(record.read_text()) if record.exists() else {"seconds": {}, "static_batch": ""}
        )
        dynamic, static = cache / f"{key}.onnx", cache / f"{key}-b{example[0].shape[0]}.onnx"
        path = dynamic if dynamic.name in known["seconds"] else static
        if path.name not in known["seconds"]:
            for partial in cache.glob(f".*-{key}*"):  # of a process that was killed while it held the lock
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
            traced = trace(model, example, fixed={BATCH: known["static_batch"]} if known["static_batch"] else None)
            path = dynamic if traced.axes[0] else static
            onnx_file.save(onnx_file.convert(traced).model, path)
            seconds = known["seconds"] | {path.name: time.perf_counter() - start}
            known = {"seconds": seconds, "static_batch": traced.fixed.get(BATCH, "")}
            _replace(record, json.dumps(known))
        took = known["seconds"][path.name]
        return Exported(path, took, took - (time.perf_counter() - start), known["static_batch"])


def digest(model: nn.Module, example: tuple[Tensor, ...]) -> str:
    """Hexadecimal key of everything the exported file depends on but the batch.

    Weights and buffers, module types with their options and scalar attributes, the source files that define them,
    the inputs' shapes beyond the batch, and torch's version.
    """
    out = hashlib.sha256(f"{torch.__version__} opset {onnx_file.OPSET}".encode())
    for tensor in example:
        out.update(f"{tuple(tensor.shape[1:])} {tensor.dtype}".encode())
    sources = set()
    for name, module in model.named_modules():
        scalars = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str | tuple | None)}
        out.update(f"{name} {type(module).__qualname__} {module.extra_repr()} {sorted(scalars.items())}".encode())
        sources.add(_source(type(module)))
    for name, tensor in _tensors(model):
        out.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        out.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for source in sorted(sources):
        out.update(source)
    return out.hexdigest()[:32]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _source(kind: type) -> bytes:
    """The file that defines a class; torch's own are covered by its version."""
    if kind.__module__.partition(".")[0] == "torch":
        return b""
    try:
        return Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):  # defined in a session or a string: no file
        return kind.__qualname__.encode()


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    temporary.write_text(text)
    temporary.replace(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the system releases it when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
