"""What a project says about its gate: the table ``[tool.pyprod.gate]`` of its pyproject.toml, as HEAD has it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pyprod.types import PyprodError

#: Tells a build which layout is wanted.
LAYOUT = "PYPROD_GATE_LAYOUT"
#: More builds than a gate has pairs would never be used.
MOST_LAYOUTS = 16


@dataclass(frozen=True)
class Config:
    """Every field is a key of the table, all optional.

    Attributes:
        suite: globs of the files that define benchmarks.
        path: folders, below the revision's, that its modules are imported from; ["src"] for such a layout.
        build: command, run in a revision's folder with ``python`` on PATH being the one that runs the gate; empty for a
            project that needs no building.
        inputs: globs of all that the build reads. Two revisions that agree in them share one build.
        outputs: globs of the files it leaves.
        environment: variables for the build, where the caller has not set them.
        layouts: how many builds to make of each revision, which differ only in where the linker puts what. The build is
            told which by the variable `LAYOUT`: 0, 1, ... Pairs take the builds in turn, both sides the same one.
    """

    suite: tuple[str, ...] = ("bench/gate_*.py",)
    path: tuple[str, ...] = (".",)
    build: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    layouts: int = 1


def read(text: str) -> Config:
    """The table in the text of a pyproject.toml; the defaults where there is none.

    Raises:
        PyprodError: it is no TOML, or a key is unknown or of the wrong type.
    """
    try:
        table: dict[str, Any] = tomllib.loads(text).get("tool", {}).get("pyprod", {}).get("gate", {})
    except ValueError as error:
        raise PyprodError(f"pyproject.toml can't be read: {error}") from error
    known = {field.name for field in fields(Config)}
    if unknown := sorted(table.keys() - known):
        raise PyprodError(f"[tool.pyprod.gate]: unknown key {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    for key, value in table.items():
        if key == "layouts":
            if not isinstance(value, int) or not 1 <= value <= MOST_LAYOUTS:
                raise PyprodError(f"[tool.pyprod.gate]: layouts must be a number from 1 to {MOST_LAYOUTS}")
            continue
        kind = dict if key == "environment" else list
        if not isinstance(value, kind) or not all(isinstance(item, str) for item in value):
            raise PyprodError(f"[tool.pyprod.gate]: {key} must be {'a table' if kind is dict else 'a list'} of strings")
    if table.get("build") and not (table.get("inputs") and table.get("outputs")):
        raise PyprodError("[tool.pyprod.gate]: a build needs inputs and outputs: what it reads, what it leaves")
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}
    return Config(**values)
