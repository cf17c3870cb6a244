"""What files hold and how long they are: the rules on this tree, and each rule on a tree that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyprod
from tests.architecture import sources

ROOT = Path(__file__).parents[2]

#: Files that are longer than their limit, with their length: an entry may shrink and go, none may be added or grow.
LONGER: dict[str, int] = {}


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return sources.tracked(ROOT)


def test_only_the_probe_knows_python(files: list[Path]) -> None:
    assert any(path.suffix in sources.KERNEL_ENDINGS for path in files)
    assert sources.python_headers(files, ROOT) == []


def test_kernels_survive_fork(files: list[Path]) -> None:
    assert sources.unsafe_threads(files, ROOT) == []


def test_no_registry_is_named(files: list[Path]) -> None:
    assert sources.registry_hosts(files, ROOT) == []


def test_one_idea_a_file(files: list[Path]) -> None:
    assert sources.too_long(files, ROOT, LONGER) == []


def test_the_changelog_speaks_of_this_version() -> None:
    assert sources.newest_version((ROOT / "CHANGELOG.md").read_text()) == pyprod.__version__


def make(root: Path, name: str, text: str) -> list[Path]:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return [path]


@pytest.mark.parametrize("header", ["<Python.h>", "<pybind11/pybind11.h>", '"torch/extension.h"', "<torch/python.h>"])
def test_a_kernel_that_knows_python(tmp_path: Path, header: str) -> None:
    text = f"#pragma once\n#  include {header}\n"
    (found,) = sources.python_headers(make(tmp_path, "csrc/gemm/ops.cpp", text), tmp_path)
    assert header.strip('<>"') in found
    assert sources.python_headers(make(tmp_path, "csrc/probe/module.cpp", text), tmp_path) == []
    assert sources.python_headers(make(tmp_path, "csrc/a/b.h", "#include <torch/csrc/stable/ops.h>"), tmp_path) == []


def test_a_kernel_with_threads_of_torch(tmp_path: Path) -> None:
    text = "void f() { torch::stable::parallel_for(0, 1, 1, g); }\n"
    (found,) = sources.unsafe_threads(make(tmp_path, "csrc/gemm/ops.cpp", text), tmp_path)
    assert "csrc/gemm/ops.cpp calls torch::stable::parallel_for: use pyprod::parallel_for" in found
    assert sources.unsafe_threads(make(tmp_path, sources.SAFE_THREADS, text), tmp_path) == []
    assert (
        sources.unsafe_threads(make(tmp_path, "csrc/gemm/ops.cpp", text.replace("torch::stable::", "")), tmp_path) == []
    )


@pytest.mark.parametrize("host", sources.REGISTRIES)
def test_a_file_that_names_a_registry(tmp_path: Path, host: str) -> None:
    (found,) = sources.registry_hosts(make(tmp_path, "docs/a.md", f"see HTTPS://{host.upper()}/simple"), tmp_path)
    assert host in found


def test_a_long_file(tmp_path: Path) -> None:
    python = make(tmp_path, "a.py", "x = 1\n" * 401)
    assert sources.too_long(python, tmp_path, {}) == ["a.py has 401 lines, at most 400: split it, one idea a file"]
    assert sources.too_long(python, tmp_path, {"a.py": 401}) == []
    kernel = make(tmp_path, "csrc/a.cu", "int x;\n" * 501)
    assert sources.too_long(kernel, tmp_path, {})[0].startswith("csrc/a.cu has 501 lines, at most 500")


def test_an_exception_that_is_no_longer_needed(tmp_path: Path) -> None:
    python = make(tmp_path, "a.py", "x = 1\n" * 410)
    (found,) = sources.too_long(python, tmp_path, {"a.py": 500})
    assert "lower or drop" in found
    assert len(sources.too_long([], tmp_path, {"gone.py": 500})) == 1


def test_newest_version() -> None:
    assert sources.newest_version("# Changelog\n\n## 0.2.0 (unreleased)\n\n- x\n\n## 0.1.0\n") == "0.2.0"
    assert sources.newest_version("# Changelog\n") is None
