"""The rules of docs/architecture.md about imports, as functions of a tree: each returns what is wrong, a line each."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROW = re.compile(r"^\| (\d+) \| (.+?) \|", re.MULTILINE)
MEND = "give it a row in the table of docs/architecture.md, on the lowest floor above all that it imports"


class Import(NamedTuple):
    """One imported module: ``pyprod.measure.heat`` of ``from pyprod.measure.heat import Settings``."""

    path: Path
    line: int
    module: str


def floors(table: str) -> dict[str, int]:
    """Floor of each room by name ("measure", "cli"), from the Markdown table of docs/architecture.md."""
    named = ((int(floor), re.findall(r"`([^`]+)`", rooms)) for floor, rooms in ROW.findall(table))
    return {name.rstrip("/").removesuffix(".py"): floor for floor, names in named for name in names}


def room(path: Path, root: Path) -> str:
    """Which room a file below ``root/pyprod`` belongs to; "" is the package's own ``__init__.py``."""
    return path.relative_to(root / "pyprod").parts[0].removesuffix(".py").replace("__init__", "")


def rooms(root: Path) -> set[str]:
    """Every module and package directly below ``root/pyprod``; a compiled one is known by its ``.pyi``."""
    found = {room(path, root) for path in (root / "pyprod").rglob("*.py")} - {""}
    return found | {path.stem for path in (root / "pyprod").glob("*.pyi")}


def imports(path: Path, root: Path) -> Iterator[Import]:
    """Every import in a file, wherever it stands: in a function or under TYPE_CHECKING it is a tie all the same."""
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from pyprod import cli` names a room, `from pyprod.cli import main` a thing in one
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "pyprod" else [module]
            for name in names:
                yield Import(path, node.lineno, name)


def upward_imports(root: Path, floor_of: dict[str, int]) -> list[str]:
    """Imports that do not go strictly down, and rooms without a floor or floors without a room."""
    known = rooms(root)
    wrong = [f"pyprod/{name} has no floor: {MEND}" for name in sorted(known - set(floor_of))]
    wrong += [
        f"docs/architecture.md has a row for pyprod/{name}, which is gone" for name in sorted(set(floor_of) - known)
    ]
    for path in sorted((root / "pyprod").rglob("*.py")):
        here = room(path, root)
        for found in imports(path, root):
            package, there = (*found.module.split("."), "")[:2]
            if package != "pyprod" or there == here or there not in known:
                continue
            above, below = floor_of.get(here, -1), floor_of.get(there, -1)
            if below >= above:
                wrong.append(
                    f"{_where(found, root)}: {here or 'pyprod'} (floor {above}) imports {there} (floor {below}): "
                    "imports go strictly down; move what both need to a lower floor"
                )
    return wrong


def foreign_imports(root: Path, name: str) -> list[Import]:
    """Imports of anything but pyprod and the standard library in the room `name`."""
    ours = ("pyprod", *sys.stdlib_module_names)
    files = [path for path in sorted((root / "pyprod").rglob("*.py")) if room(path, root) == name]
    return [found for path in files for found in imports(path, root) if found.module.split(".")[0] not in ours]


def needs_only_standard_library(root: Path) -> list[str]:
    """``pyprod.types`` is read by every process, also by those that must not load torch."""
    return [
        f"{_where(f, root)}: types imports {f.module}: standard library only" for f in foreign_imports(root, "types")
    ]


def needs_no_torch(root: Path) -> list[str]:
    """``pyprod.measure`` could time a toaster."""
    torch = [f for f in foreign_imports(root, "measure") if f.module.split(".")[0] == "torch"]
    return [f"{_where(f, root)}: measure imports {f.module}: it must know nothing of torch" for f in torch]


def _where(found: Import, root: Path) -> str:
    return f"{found.path.relative_to(root)}:{found.line}"
