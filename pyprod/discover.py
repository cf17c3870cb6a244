"""What exists, by file name: a file in a room is its own registration, there is no list to edit."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from pyprod.types import PyprodError, Unavailable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Made = TypeVar("Made", bound="DataclassInstance")


def names(package: str) -> list[str]:
    """Names of the public modules in `package` ("pyprod.backends"), sorted; nothing but the package is imported."""
    path = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))


def load(package: str, name: str) -> ModuleType:
    """Import ``package.name``.

    Raises:
        Unavailable: a third-party package that the module imports is not installed.
        PyprodError: there is no such module; the message suggests near names.
        Exception: whatever a bug in our own module raises: discovery hides none.
    """
    known = names(package)
    if name not in known:
        raise PyprodError(unknown(package.rpartition(".")[2].rstrip("s"), name, known))
    try:
        return importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        absent = (error.name or "").partition(".")[0]
        if absent == "pyprod" or not absent:
            raise
        raise _not_installed(absent) from error


def missing(package: str) -> Unavailable | None:
    """Why a third-party package isn't here, which a module imports no sooner than it needs it, or None."""
    return None if importlib.util.find_spec(package) else _not_installed(package)


def _not_installed(package: str) -> Unavailable:
    return Unavailable(f"{package} is not installed", f"pip install {package}")


def load_file(path: Path) -> ModuleType:
    """Import a user's Python file as a module named after it.

    Raises:
        PyprodError: the file does not exist.
    """
    if not path.is_file():
        raise PyprodError(f"no such file: {path}")
    name = f"pyprod_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PyprodError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look a module up by name
    spec.loader.exec_module(module)
    return module


def entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Entry points that installed packages offer under `group` ("pyprod.workloads"), by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}


def construct(kind: type[Made], arguments: Mapping[str, Any], what: str) -> Made:
    """A dataclass of its fields by name.

    Raises:
        PyprodError: there is no such field; the message calls it an argument of `what`, and suggests near names.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    for name in arguments:
        if name not in known:
            raise PyprodError(unknown(f"argument of {what}", name, known))
    return kind(**arguments)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that does not exist: "unknown backend 'eagr.fp32'; did you mean 'eager.fp32'?"."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, near))}?"
    return f"unknown {kind} {name!r}; there are: {', '.join(known) or 'none'}"
