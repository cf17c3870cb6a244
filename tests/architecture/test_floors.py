"""Who may import whom: the rules on this tree, and each rule on a tree that breaks it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import floors

ROOT = Path(__file__).parents[2]
TABLE = """
| floor | room | what it is |
|---|---|---|
| 0 | `types.py` | values |
| 1 | `discover.py`, `measure/` | two rooms |
| 8 | `cli.py` | the door |
"""


def test_imports_go_strictly_down() -> None:
    table = floors.floors((ROOT / "docs/architecture.md").read_text())
    assert floors.upward_imports(ROOT, table) == []


def test_types_needs_only_the_standard_library() -> None:
    assert floors.needs_only_standard_library(ROOT) == []


def test_measure_needs_no_torch() -> None:
    assert floors.needs_no_torch(ROOT) == []


@pytest.mark.parametrize("module", ["pyprod.measure.worker", "pyprod.measure.report", "pyprod.cli"])
def test_what_must_start_fast_loads_no_torch_at_all(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree that breaks no rule."""
    for name, text in {
        "__init__.py": "",
        "types.py": "import json\n",
        "discover.py": "from pyprod.types import X\nfrom pyprod import __version__, types\n",
        "measure/__init__.py": "import numpy\nfrom pyprod.measure import heat\n",
        "measure/heat.py": "from .. import types\nfrom . import clock\n",
        "cli.py": "def main():\n    from pyprod import measure\n",
    }.items():
        write(tmp_path, f"pyprod/{name}", text)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_table() -> None:
    assert floors.floors(TABLE) == {"types": 0, "discover": 1, "measure": 1, "cli": 8}


def test_a_good_tree(tree: Path) -> None:
    assert floors.upward_imports(tree, floors.floors(TABLE)) == []
    assert floors.needs_only_standard_library(tree) == []
    assert floors.needs_no_torch(tree) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("types.py", "import pyprod.cli", "types.py:1: types (floor 0) imports cli (floor 8)"),
        ("discover.py", "from pyprod.cli import main", "discover (floor 1) imports cli (floor 8)"),
        ("discover.py", "from pyprod import measure", "discover (floor 1) imports measure (floor 1)"),
        ("measure/heat.py", "def f():\n    from pyprod.discover import names", "heat.py:2: measure (floor 1)"),
        ("measure/heat.py", "from ..discover import names", "measure (floor 1) imports discover (floor 1)"),
        ("measure/deep/er.py", "from ...cli import main", "measure (floor 1) imports cli (floor 8)"),
        ("discover.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pyprod.cli", "discover.py:3"),
        ("__init__.py", "from pyprod import types", "pyprod (floor -1) imports types (floor 0)"),
        ("serve/__init__.py", "", "pyprod/serve has no floor: give it a row in the table"),
        ("_native.pyi", "", "pyprod/_native has no floor"),
    ],
)
def test_a_bad_tree(tree: Path, name: str, text: str, message: str) -> None:
    write(tree, f"pyprod/{name}", text)
    (found,) = floors.upward_imports(tree, floors.floors(TABLE))
    assert message in found


def test_a_row_without_a_room(tree: Path) -> None:
    (tree / "pyprod/cli.py").unlink()
    assert floors.upward_imports(tree, floors.floors(TABLE)) == [
        "docs/architecture.md has a row for pyprod/cli, which is gone"
    ]


def test_a_value_that_needs_numpy(tree: Path) -> None:
    write(tree, "pyprod/types.py", "import numpy.typing\n")
    assert floors.needs_only_standard_library(tree) == [
        "pyprod/types.py:1: types imports numpy.typing: standard library only"
    ]


def test_a_toaster_that_needs_torch(tree: Path) -> None:
    write(tree, "pyprod/measure/heat.py", "def f():\n    from torch.nn import Module\n")
    (found,) = floors.needs_no_torch(tree)
    assert "measure/heat.py:2: measure imports torch.nn" in found
