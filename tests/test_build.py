"""From a Candidate to something measurable, in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyprod import build, workloads
from pyprod.backends import Runner
from pyprod.types import Candidate, Mismatch, PyprodError, Unavailable

TINY = "tests/tiny.py:build"


@pytest.fixture(autouse=True)
def _artifacts_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's temporary folder goes with the run; here there is no run."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


class Doubler(Runner):
    """Remembers the batches it saw; its output tells the rows apart."""

    artifact_bytes = 0

    def __init__(self) -> None:
        self.batches: list[int] = []

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        self.batches.append(inputs[0].shape[0])
        return lambda: inputs[0] * 2

    def tensor(self, output: object) -> Tensor:
        assert isinstance(output, Tensor)
        return output


def subject(backend: str, cache: Path, batch: int = 1) -> build.CandidateSubject:
    candidate = Candidate(TINY, backend, batch=batch)
    return build.subject(build.payload(candidate, cache))


def test_eager_is_the_reference(tmp_path: Path) -> None:
    made = subject("eager.fp32", tmp_path, batch=3)
    metrics = {o.metric: o for o in made.build()}
    assert metrics["build_time"].context["unit"] == "row"
    assert metrics["build_time"].samples[0] >= 0
    assert metrics["artifact_size"].samples[0] >= 4 * (8 * 16 + 16 + 16 * 3 + 3)
    (error,) = made.check()
    assert error.samples == [0.0]
    (accuracy,) = made.score()
    assert accuracy.unit == "mean"
    assert sum(accuracy.samples) == 9
    assert len(accuracy.samples) == 10
    made.release()
    assert torch.as_tensor(made.call()).shape == (3, 3)


def test_unavailable_says_why(tmp_path: Path) -> None:
    candidate = Candidate(TINY, "eager.fp32", device="cuda")
    with pytest.raises(Unavailable, match="GPU"):
        build.subject(build.payload(candidate, tmp_path)).build()


def test_a_misspelt_backend_suggests_near_ones(tmp_path: Path) -> None:
    with pytest.raises(PyprodError, match=r"unknown backend 'eager\.fp23'; did you mean 'eager\.fp32'"):
        subject("eager.fp23", tmp_path).build()


@pytest.mark.parametrize(("batch", "batches"), [(1, 8), (3, 3), (8, 1), (11, 1)])
def test_eight_rows_are_checked_and_the_timed_call_with_them(
    batch: int, batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = subject("eager.fp32", tmp_path, batch)
    made.build()
    seen: list[Tensor] = []
    monkeypatch.setattr(build, "relative_error", lambda output, reference: seen.extend((output, reference)) or 0.0)
    made.check()
    output, reference = seen
    rows = torch.arange(batch * batches) % 10
    assert torch.equal(output, reference)
    want = workloads.load(TINY).model()(*(t[rows] for t in workloads.load(TINY).inputs))
    torch.testing.assert_close(output, want.detach())
    monkeypatch.undo()
    wrong = torch.zeros(batch, 3)
    monkeypatch.setattr(made, "_call", lambda: wrong)
    with pytest.raises(Mismatch, match="relative error"):
        made.check()


@pytest.mark.parametrize("batch", [1, 3, 5, 10, 11, 64])
def test_evaluation_uses_whole_batches_and_keeps_every_row_once(batch: int) -> None:
    workload = workloads.load(TINY)
    runner = Doubler()
    assert torch.equal(build.evaluate(runner, workload, batch), workload.inputs[0] * 2)
    assert set(runner.batches) == {batch}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(2, 3), "shape"),
        (torch.tensor([[1.0, float("nan")]]), "not finite"),
        (torch.tensor([[1.0, float("inf")]]), "not finite"),
    ],
)
def test_a_wrong_output_is_refused(output: Tensor, message: str) -> None:
    with pytest.raises(Mismatch, match=message):
        build.relative_error(output, torch.ones(1, 2))


def test_relative_error() -> None:
    assert build.relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
    assert build.relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert build.relative_error(torch.ones(2), torch.zeros(2)) > 1e300
    assert build.relative_error(torch.zeros(0), torch.zeros(0)) == 0
