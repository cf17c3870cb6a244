"""Write a file, hold it against the model, and only then give it its name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import psutil
import torch
from torch import Tensor, nn

from pyprod import discover
from pyprod.export import onnx as onnx_format
from pyprod.export import parity
from pyprod.export.ledger import Ledger, ledger
from pyprod.export.order import Order, Reader, Written
from pyprod.export.parity import Parity
from pyprod.types import PyprodError

#: Of a file that failed: kept, to be looked at.
REJECTED = ".rejected"

#: Beside a file: what it was held against, and what was found.
REPORT = ".parity.json"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """How much a file is held against.

    Attributes:
        inputs: real rows ``[n, ...]``.
        reference: the model that it must agree with: the order's own, or that with its rounding simulated.
        rows: of the real ones, how many at most.
        shapes: random inputs of random sizes.
        tolerance: see `pyprod.export.parity`.
        twin: of a reference that rounds activations, `parity.jittered`: twice what lies between them is allowed, too.
    """

    inputs: tuple[Tensor, ...]
    reference: nn.Module
    rows: int = 64
    shapes: int = 20
    tolerance: float = parity.FLOAT32
    twin: nn.Module | None = None


@dataclass(frozen=True)
class Delivery:
    """A file, and what was found.

    Attributes:
        path: the file; where it failed, the name that it would have had.
        facts: what the format says of it.
        ledger: step by step, where the file's steps are the model's.
        parity: end to end, by runtime and kind of rows.
    """

    path: Path
    facts: dict[str, Any]
    ledger: Ledger | None
    parity: tuple[Parity, ...]

    @property
    def problems(self) -> list[str]:
        """A line each; empty where the file is the model."""
        faults = [f"step {step}" for step in (self.ledger.faults if self.ledger else ())]
        return faults + [str(p) for p in self.parity if not p.holds]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        steps = self.ledger and [asdict(step) | {"error": _number(step.error)} for step in self.ledger.steps]
        return {
            "file": self.path.name,
            "facts": self.facts,
            "problems": self.problems,
            "parity": [asdict(p) | {"error": _number(p.error)} for p in self.parity],
            "constants": self.ledger and {"exact": self.ledger.exact, "folded": self.ledger.folded},
            "ledger": steps,
        }


class Rejected(PyprodError):
    """The file does not do what the model does; `delivery` says where."""

    def __init__(self, delivery: Delivery) -> None:
        more = f" (and {len(delivery.problems) - 1} more)" if len(delivery.problems) > 1 else ""
        path = delivery.path
        super().__init__(
            f"{path.name} is not the model: {delivery.problems[0]}{more}; kept as {path.name}{REJECTED}, "
            f"see {path.name}{REPORT}"
        )
        self.delivery = delivery


def formats() -> dict[str, ModuleType]:
    """Every format by name: the files of this room that write one."""
    modules = {name: discover.load("pyprod.export", name) for name in discover.names("pyprod.export")}
    return {name: module for name, module in modules.items() if hasattr(module, "SUFFIX")}


def deliver(order: Order, name: str, path: Path, check: Check, progress: Progress = lambda what: None) -> Delivery:
    """Write the order in a format; the file at `path` is there only if it does what the model does.

    What is there already stays until then. The report is written beside it in either case.

    Args:
        name: of the format.

    Raises:
        Rejected: it differs.
        PyprodError: there is no such format, or it can't hold the model.
    """
    known = formats()
    if name not in known:
        raise PyprodError(discover.unknown("format", name, known))
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    folder = path.with_name(f".{os.getpid()}-{path.name}")
    folder.mkdir()
    try:
        progress(f"{name}: writing")
        written = known[name].write(order, folder / path.name)
        readers = known[name].readers(order, folder / path.name)
        exact = known[name].unrounded(order, folder / path.name) if hasattr(known[name], "unrounded") else None
        found = Delivery(path, *_examine(order, written, readers, folder / path.name, check, progress, exact))
        ending = REJECTED if found.problems else ""
        report = {**found.to_json(), "metadata": dict(order.metadata)}
        (folder / f"{path.name}{REPORT}").write_text(json.dumps(report, indent=1) + "\n")
        (folder / path.name).rename(folder / f"{path.name}{ending}")
        for part in sorted(folder.iterdir(), key=lambda p: p.name == f"{path.name}{ending}"):  # the file itself last
            _replace(part, path.with_name(part.name))
    finally:
        shutil.rmtree(folder)
    if found.problems:
        raise Rejected(found)
    return found


def examine(order: Order, path: Path, check: Check, progress: Progress = lambda what: None) -> Delivery:
    """The same of a file of the format onnx that is there already.

    Raises:
        PyprodError: it can't be read, or holds more than ONNX's own operators.
    """
    written = onnx_format.reopen(order, path)
    return Delivery(path, *_examine(order, written, onnx_format.readers(order, path), path, check, progress))


def _examine(
    order: Order,
    written: Written,
    readers: dict[str, Reader],
    path: Path,
    check: Check,
    progress: Progress,
    exact: tuple[dict[str, Reader], nn.Module] | None = None,
) -> tuple[dict[str, Any], Ledger | None, tuple[Parity, ...]]:
    open_batch = 0 in written.axes[0]
    inputs = check.inputs if open_batch else order.example
    found = None
    if written.program is not None:
        progress("comparing step by step")
        found = ledger(written.program, onnx.load(path), parity.mixed(inputs, open_batch))
    calls = {"real": parity.real(inputs, written.axes, check.rows)}
    if check.shapes:
        dimensions = [d for d in order.dimensions if d.name not in written.fixed]
        calls["random"] = list(parity.random(inputs, written.axes, dimensions, check.shapes))
    wants = {rows: parity.answers(check.reference, calls[rows]) for rows in calls}
    scale = parity.norm(wants["real"])
    results: list[Parity] = []
    for rows in calls:
        apart = 0.0 if check.twin is None else parity.spread(wants[rows], check.twin, calls[rows], scale)
        allowed = max(check.tolerance, 2 * apart)
        results += parity.compare(wants[rows], readers, calls[rows], rows, scale, allowed, progress)
        if exact is not None:
            results += parity.compare(parity.answers(exact[1], calls[rows]), exact[0], calls[rows], rows, scale)
    return _facts(order, written, path), found, tuple(results)


def _facts(order: Order, written: Written, path: Path) -> dict[str, Any]:
    return {
        "bytes": sum(part.stat().st_size for part in (path, path.with_name(f"{path.name}.data")) if part.exists()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "torch": torch.__version__,
        "open": sorted({name for open_ in written.axes for name in open_.values()}),
        "fixed": dict(written.fixed),
        **written.facts,
    }


def _sweep(path: Path) -> None:
    """Remove what processes left that were killed while they wrote this file."""
    for folder in path.parent.glob(f".*-{path.name}"):
        pid = folder.name[1:].partition("-")[0]
        if pid.isdigit() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
            shutil.rmtree(folder)


def _replace(part: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    part.replace(target)


def _number(value: float) -> float | str:
    """JSON has no infinity."""
    return value if value == value and abs(value) != float("inf") else str(value)
