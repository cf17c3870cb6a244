"""Two stored records against each other: drift is taken out, accuracy and size count, other machines are refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pyprod import gate
from pyprod.gate.book import ACCURACY, LATENCY, SIZE
from pyprod.measure import store
from pyprod.measure.decide import Rule, Verdict
from pyprod.types import Candidate, Failure, Measurement, PyprodError

BASELINE, OURS = (Candidate("encoder", backend) for backend in ("eager.fp32", "native.int8"))
SETTINGS = gate.Settings(rule=Rule(tolerance=0.1))


def record(root: Path, name: str, machine: str = "toaster", **levels: Any) -> Path:
    """Ten rounds of both candidates; `levels` are in ms, by backend, and of "correct", "size" and "failure"."""
    path = store.create(root, name, {"machine": machine, "cpu": {"model": machine}}, {"baseline": "eager.fp32"})
    with store.Writer(path) as writer:
        for candidate, level in ((BASELINE, levels.get("eager", 10.0)), (OURS, levels.get("native", 2.0))):
            for number in range(10):
                samples = tuple(1e6 * level * random.uniform(0.99, 1.01) for _ in range(5))
                writer.append(Measurement(candidate, "latency", "ns", samples, number))
            writer.append(Measurement(candidate, "artifact_size", "bytes", (levels.get("size", 1000.0),)))
        correct = tuple(float(i < levels.get("correct", 90)) for i in range(100))
        writer.append(Measurement(OURS, "accuracy", "mean", correct, context={"statistic": "mean"}))
        if levels.get("failure"):
            failure = Failure("error", "build", "burnt")
            writer.append(Measurement(OURS, "failure", "", (), failure=failure))
    return path


def verdicts(base: Path, head: Path, out: Path) -> dict[tuple[str, str], Verdict | None]:
    book, folder = gate.compare_records(base, head, SETTINGS, out)
    assert gate.replay(folder).verdict == book.verdict
    return {(Candidate.from_id(b).backend, metric): row.verdict for (b, metric), row in book.rows.items()}


def test_a_slower_day_is_not_the_change_s_fault(tmp_path: Path) -> None:
    base, head = record(tmp_path, "a"), record(tmp_path, "b", eager=13.0, native=2.6)
    found = verdicts(base, head, tmp_path / "out")
    assert found["native.int8", LATENCY] is Verdict.PASS
    assert found["eager.fp32", LATENCY] is Verdict.FAIL  # nothing says whose fault this is


def test_a_slower_candidate_is(tmp_path: Path) -> None:
    found = verdicts(record(tmp_path, "a"), record(tmp_path, "b", native=2.5), tmp_path / "out")
    assert found["native.int8", LATENCY] is Verdict.FAIL
    assert found["eager.fp32", LATENCY] is Verdict.PASS


def test_accuracy_and_size_count(tmp_path: Path) -> None:
    found = verdicts(record(tmp_path, "a"), record(tmp_path, "b", correct=88, size=1300), tmp_path / "out")
    assert found["native.int8", ACCURACY] is Verdict.FAIL
    assert found["native.int8", SIZE] is Verdict.FAIL
    better = verdicts(record(tmp_path, "c"), record(tmp_path, "d", correct=99, size=900), tmp_path / "out")
    assert set(better.values()) == {Verdict.PASS}


def test_an_accuracy_that_is_gone_fails(tmp_path: Path) -> None:
    """All wrong: there is no ratio to 0, and that must not drop the row."""
    found = verdicts(record(tmp_path, "a"), record(tmp_path, "b", correct=0), tmp_path / "out")
    assert found["native.int8", LATENCY] is Verdict.FAIL


def test_what_fails_now_fails(tmp_path: Path) -> None:
    found = verdicts(record(tmp_path, "a"), record(tmp_path, "b", failure=True), tmp_path / "out")
    assert found["native.int8", LATENCY] is Verdict.FAIL
    found = verdicts(record(tmp_path, "c", failure=True), record(tmp_path, "d"), tmp_path / "out")
    assert found["native.int8", LATENCY] is None


def test_other_machines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PyprodError, match=r"different machines can't be gated: toaster"):
        verdicts(record(tmp_path, "a"), record(tmp_path, "b", machine="kettle"), tmp_path / "out")


def test_the_verb_says_that_it_is_weaker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pyprod import cli

    base, head = str(record(tmp_path, "a")), str(record(tmp_path, "b"))
    assert cli.main(["gate", base, head, "--out", str(tmp_path / "out")]) == 0
    assert "two stored records: one process each" in capsys.readouterr().out
    assert cli.main(["gate", base, "main"]) == 2
    assert "HEAD must be one too" in capsys.readouterr().err
