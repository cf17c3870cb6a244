"""Every peer that can run here gives the right answer; a wrong one is a mismatch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyprod import kernels
from pyprod.kernel_suite import peers, problems
from pyprod.types import Mismatch, PyprodError

SMALL = {kind: {"n": 33, "k": 70} for kind in ("linear", "linear_cold", "ladder", "gemm")}
#: Compiling takes seconds each; what they compile is what eager runs, and each run of the suite checks them.
SLOW = ("compile", "qlinear", "torchao")
CASES = [
    (kind, name, variant.numerics)
    for name, variant, why in peers.known()
    if variant and not why and name.partition(".")[0] not in SLOW
    for kind in variant.kinds
]


@pytest.mark.parametrize(("kind", "name", "numerics"), CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES])
def test_peers_are_right_for_any_number_of_rows(
    kind: str, name: str, numerics: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels.isa()  # chosen once per process: a rung of the ladder that asks for another must not choose for all tests
    monkeypatch.setenv("PYPROD_ISA", "")
    problem = problems.module(kind).build(**SMALL.get(kind, {"k": 70}))
    module, variant = peers.split(name)
    with torch.no_grad():
        prepared = module.prepare(problem, variant, 1, tmp_path)
        for rows in (1, 17):
            inputs = problem.inputs(rows)
            outputs = prepared.tensors(prepared.bind(inputs)())
            problem.check(outputs, inputs, numerics)
            for output in outputs:
                assert output.shape[0] == rows


@pytest.mark.parametrize("kind", problems.kinds())
def test_a_wrong_answer_is_a_mismatch(kind: str) -> None:
    problem = problems.module(kind).build(**SMALL.get(kind, {"k": 70}))
    inputs = problem.inputs(5)
    with torch.no_grad():
        right = _right(kind, problem, inputs)
    problem.check(right, inputs, "int8")
    first, *rest = right
    spoilt = [first.flip(0), first[:-1], first * 0]
    if first.is_floating_point():
        spoilt.append(torch.where(torch.arange(5)[:, None] == 2, torch.nan, first))
    for wrong in spoilt:
        with pytest.raises(Mismatch):
            problem.check((wrong, *rest), inputs, "int8")


def _right(kind, problem, inputs):
    module, variant = peers.split("native.int8")
    return tuple(t.clone() for t in _outputs(module.prepare(problem, variant, 1, Path()), inputs))


def _outputs(prepared, inputs):
    return prepared.tensors(prepared.bind(inputs)())


def test_unknown_peers_are_refused_with_near_names() -> None:
    with pytest.raises(PyprodError, match=r"unknown peer 'eager.fp23'; did you mean 'eager.fp32'"):
        peers.split("eager.fp23")
