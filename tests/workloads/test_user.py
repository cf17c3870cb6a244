"""A user's own model: what works, and one clear line for each thing that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyprod import workloads
from pyprod.types import PyprodError

EXAMPLE = Path(__file__).parents[2] / "examples" / "mymodel.py"


def test_the_example_builds_and_is_scored() -> None:
    workload = workloads.load(f"{EXAMPLE}:build")
    assert workload.score is not None
    with torch.inference_mode():
        found = workload.score(workload.model()(*workload.inputs))
    assert torch.corrcoef(torch.tensor([found.values, found.truth]))[0, 1] > 0.99


def test_a_module_and_example_inputs_are_enough() -> None:
    workload = workloads.load(f"{EXAMPLE}:untested")
    assert workload.score is None
    assert workload.model()(*workload.example(20)).shape == (20, 4)
    assert not workload.model().training


def test_a_name_that_does_not_exist_suggests_the_near_one() -> None:
    with pytest.raises(PyprodError, match=r"unknown workload 'tabluar'; did you mean 'tabular'\?"):
        workloads.load("tabluar")


def test_the_catalog_says_what_is_here_and_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYPROD_CACHE", str(tmp_path))
    catalog = workloads.catalog()
    assert list(catalog) == workloads.known()
    assert catalog["digits"].assets == "bundled"
    assert catalog["encoder"].assets == "fetches 111 MB"
    assert all(about.summary.endswith((".", "?", "s")) and not about.problem for about in catalog.values())
    assert not list(tmp_path.iterdir())


HEAD = """
import torch
from torch import nn
from pyprod.workloads import Workload
x = torch.zeros(4, 2)
class Pair(nn.Module):
    def forward(self, x): return x, x
class Total(nn.Module):
    def forward(self, x): return x.sum()
def workload(model=lambda: nn.Linear(2, 2), inputs=(x,), calibration=(x,)):
    return Workload(model, inputs, calibration, score=None)
"""

WRONG_TO_BUILD = [
    ("raise ValueError('no data')", r"raised ValueError: no data \(.*user\.py:\d+\)"),
    ("import nothing_of_this_name", r"raised ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ("return nn.Linear(2, 2)", r"must return a pyprod\.workloads\.Workload or \(module, example inputs\), got Linear"),
    ("return workload(inputs=x)", r"inputs must be a tuple of tensors"),
    ("return workload(inputs=(x, x[:3]))", r"inputs must have the same number of rows, at least 1 each, got \[4, 3\]"),
    ("return workload(inputs=(x[:0],))", r"inputs must have the same number of rows, at least 1 each, got \[0\]"),
    ("return workload(calibration=(x.double(),))", r"calibration rows must look like input rows"),
]
WRONG_TO_RUN = [
    ("return workload(model=lambda: 1 / 0)", r"model\(\) raised ZeroDivisionError"),
    ("return workload(model=lambda: len)", r"model\(\) must return a torch\.nn\.Module, got builtin"),
    ("return workload(model=lambda: nn.Linear(3, 2))", r"called with two rows, raised RuntimeError: mat1 and mat2"),
    ("return workload(model=Pair)", r"must return one tensor, got tuple"),
    ("return workload(model=Total)", r"must return a tensor with a row per input row, got \[\]"),
]


def _write(tmp_path: Path, body: str) -> str:
    path = tmp_path / "user.py"
    path.write_text(f"{HEAD}\ndef build():\n    {body}\n")
    return f"{path}:build"


@pytest.mark.parametrize(("body", "message"), WRONG_TO_BUILD)
def test_a_build_that_is_wrong_is_one_line(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(PyprodError, match=message) as caught:
        workloads.load(_write(tmp_path, body))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("body", "message"), WRONG_TO_RUN)
def test_a_model_that_is_wrong_is_one_line(tmp_path: Path, body: str, message: str) -> None:
    workload = workloads.load(_write(tmp_path, body))
    with pytest.raises(PyprodError, match=message) as caught:
        workload.model()
    assert "\n" not in str(caught.value)


def test_a_file_or_function_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PyprodError, match=r"no such file: .*nofile\.py"):
        workloads.load(str(tmp_path / "nofile.py:build"))
    with pytest.raises(PyprodError, match=r"mymodel\.py has no function 'biuld'"):
        workloads.load(f"{EXAMPLE}:biuld")
    (tmp_path / "broken.py").write_text("def build(:\n")
    with pytest.raises(PyprodError, match="raised SyntaxError"):
        workloads.load(f"{tmp_path}/broken.py:build")
