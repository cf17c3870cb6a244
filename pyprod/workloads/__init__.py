"""Workloads: a trained model, real data and a metric; a file each. The file's name is the workload's name.

A workload file has a module docstring (its first line is shown by ``pyprod list``) and::

    ASSETS = (...)                 # what build() fetches, () when nothing
    def build() -> Workload: ...   # raises Unavailable when weights or data can't be had
    def training() -> Training: ...  # only where this project made the weights: python -m pyprod.train NAME

A user's own model is the same function anywhere else: ``--workload path/to/mymodel.py:build``, or an entry point in
the group ``pyprod.workloads``. It may also return just ``(module, example inputs)``: then no accuracy is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pyprod import discover
from pyprod.types import PyprodError, Unavailable
from pyprod.workloads._assets import cache_dir
from pyprod.workloads._weights import fingerprint
from pyprod.workloads._workload import Dimension, Training, Workload, from_user, training

__all__ = [
    "About",
    "Dimension",
    "Training",
    "Workload",
    "cache_dir",
    "catalog",
    "fingerprint",
    "known",
    "load",
    "training",
]


@dataclass(frozen=True)
class About:
    """What can be said of a workload without building it.

    Attributes:
        summary: first line of its docstring.
        assets: "bundled", "cached", or "fetches 84 MB" (on first use).
        problem: why it can't run here; empty when nothing is known against it.
    """

    summary: str
    assets: str
    problem: str = ""


def load(name: str) -> Workload:
    """Build the workload `name`: a file of this package, an entry point, or ``path/to/file.py:function``.

    Raises:
        Unavailable: its data, weights or a package can't be had here.
        PyprodError: there is no such workload, or a user's file or function does not give one.
    """
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        return from_user(lambda: _function(Path(path), function)(), f"workload {name}")
    if point := discover.entry_points(__name__).get(name):
        return from_user(lambda: point.load()(), f"workload {name}")
    if name not in known():
        raise PyprodError(discover.unknown("workload", name, known()))
    workload: Workload = discover.load(__name__, name).build()
    return workload


def known() -> list[str]:
    """Every workload that exists here by name: files of this package, then entry points."""
    return discover.names(__name__) + sorted(discover.entry_points(__name__))


def catalog() -> dict[str, About]:
    """Every known workload by name, and how it stands; builds and fetches nothing."""
    found = {}
    for name in discover.names(__name__):
        try:
            found[name] = _about(discover.load(__name__, name))
        except Unavailable as why:
            found[name] = About("", "", str(why))
    for name, point in sorted(discover.entry_points(__name__).items()):
        found[name] = About(f"entry point {point.value}", "")
    return found


def _about(module: ModuleType) -> About:
    missing = sum(asset.size for asset in module.ASSETS if not asset.cached)
    here = "cached" if module.ASSETS else "bundled"
    return About((module.__doc__ or "").partition("\n")[0], f"fetches {missing / 1e6:.0f} MB" if missing else here)


def _function(path: Path, name: str) -> Callable[[], object]:
    function = getattr(discover.load_file(path), name, None)
    if not callable(function):
        raise PyprodError(f"{path} has no function {name!r}")
    return function  # type: ignore[no-any-return]
