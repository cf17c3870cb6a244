"""What every op owes: on this tree, and on one where an op owes everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture import kernels

ROOT = Path(__file__).parents[2]
RULES = (kernels.without_fake, kernels.without_opcheck, kernels.without_twins)

BARE = """
from pyprod.kernels._library import fake

__all__ = ["mul", "relu", "relu_cost"]

def mul(x):
    return torch.ops.pyprod.mul.default(x)

def relu(x):
    return torch.ops.pyprod.relu.default(x)

def _hidden(x):
    return torch.ops.pyprod.add.default(x)

def relu_cost(m):
    return m

@fake("relu")
def _fake(x):
    return x
"""


def test_ops_are_found() -> None:
    assert {"quantize_per_token", "int8_gemm", "int8_linear"} <= set(kernels.ops(ROOT))
    assert not {"isa", "advise_huge_pages"} & set(kernels.ops(ROOT))


@pytest.mark.parametrize("rule", RULES)
def test_every_op_pays(rule) -> None:  # type: ignore[no-untyped-def]
    assert rule(ROOT) == []


@pytest.mark.parametrize(
    ("name", "is_one"), [("a_b_c", True), ("a_c", True), ("b_a", False), ("a_d", False), ("", False)]
)
def test_a_twin_is_one_of_the_family(name: str, is_one: bool) -> None:
    assert kernels.is_twin("a_b_c", f"{name}_cost", "cost") is is_one
    assert not kernels.is_twin("a_b_c", f"{name}_cost", "reference")


def test_an_op_that_owes(tmp_path: Path) -> None:
    for name, text in {
        "csrc/all/ops.cpp": 'm.def("add(Tensor x) -> Tensor"); m.def("isa() -> str");\nm.def(\n    "mul(Tensor x, "\n'
        '    "int n) -> Tensor");\n m.def("relu(Tensor x) -> Tensor");',
        "pyprod/kernels/all.py": BARE,
        "tests/kernels/test_all.py": "torch.library.opcheck(OPS.relu.default, (x,))",
        "tests/kernels/test_other.py": "OPS.mul.default(x)",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert kernels.ops(tmp_path) == ["add", "mul", "relu"]
    assert [line.split()[0] for line in kernels.without_fake(tmp_path)] == ["add", "mul"]
    assert [line.split()[0] for line in kernels.without_opcheck(tmp_path)] == ["add", "mul"]
    assert kernels.without_twins(tmp_path) == [
        "add is called by no public function of pyprod/kernels",
        "pyprod/kernels/all.py: mul has no public mul_reference",
        "pyprod/kernels/all.py: mul has no public mul_cost",
        "pyprod/kernels/all.py: relu has no public relu_reference",
    ]
