"""Which files of pyprod a module's results depend on: its own and those that it imports, and they in turn.

Read from the import statements, without importing. What is found by name at run time (a step, a workload) is no import:
who asks for it names it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pyprod

_ROOT = Path(pyprod.__path__[0])


def sources(path: Path) -> tuple[Path, ...]:
    """The file and every file of pyprod that importing it runs, sorted.

    Args:
        path: a Python file, of pyprod or not.
    """
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += [known for name in _imported(file.read_bytes(), _package(file)) for known in _files(name)]
    return tuple(sorted(found))


def _package(path: Path) -> tuple[str, ...]:
    """What relative imports of a file are relative to."""
    return ("pyprod", *path.relative_to(_ROOT).parent.parts) if path.is_relative_to(_ROOT) else ()


@cache
def _imported(source: bytes, package: tuple[str, ...]) -> tuple[str, ...]:
    """Full names of what a file imports; of ``from a import b`` both a and a.b, which may be a module."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join((*above, node.module) if node.module else above)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _files(name: str) -> Iterator[Path]:
    """The module's file and those of the packages around it; none of what is not pyprod's."""
    parts = name.split(".")
    if parts[0] != "pyprod":
        return
    for end in range(1, len(parts) + 1):
        place = _ROOT.joinpath(*parts[1:end])
        yield from (file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file())
