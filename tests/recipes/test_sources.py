"""The files that a result depends on, read from import statements."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pyprod
from pyprod.recipes.sources import sources

ROOT = Path(pyprod.__path__[0])


def names(path: Path) -> set[str]:
    return {str(file.relative_to(ROOT)) for file in sources(path) if file.is_relative_to(ROOT)}


@pytest.mark.parametrize("module", ["optimize.finetune", "quantize.mixed", "workloads.sentiment"])
def test_all_that_importing_runs(module: str) -> None:
    """Python's own word for it: what is in sys.modules afterwards. What a function imports when called may be more."""
    code = f"import sys, pyprod.{module}\nfor m in list(sys.modules.values()): print(getattr(m, '__file__', None))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ran = {Path(line) for line in said.splitlines() if line != "None"}
    want = {str(file.relative_to(ROOT)) for file in ran if file.suffix == ".py" and file.is_relative_to(ROOT)}
    parts = module.split(".")
    want -= {f"{parts[0]}/__init__.py"}  # the module is asked for by its file
    found = names(ROOT.joinpath(*parts).with_suffix(".py"))
    assert {name for name in want if not name.startswith("kernels/")} <= found  # a room that loads all its files


def test_and_no_other() -> None:
    assert not [name for name in names(ROOT / "optimize" / "finetune.py") if name.startswith(("fuse", "backends"))]


def test_a_users_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import numpy\nfrom pyprod.nn import convert\nfrom . import other\n")
    assert file in sources(file)
    assert "nn/convert.py" in names(file)
    assert "nn/linear.py" in names(file), "what that imports, relatively or not"
