"""Workers that outlive their problems: they stay, they are replaced when they die, slow candidates are skipped."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from pyprod.measure.heat import Entry, Settings
from pyprod.measure.relay import MOST_DEATHS, Relay
from pyprod.types import Candidate, Failure, Measurement
from tests.measure.test_heat import SLOTS, Watch

QUICK = Settings(rounds=2, slice_s=0.002, max_samples=3, timeout_s=60)


def entry(problem: int, backend: str, **payload: Any) -> Entry:
    return Entry(Candidate(f"toast/n{problem}", backend), {"toast_ms": 0.1} | payload)


def run(problems: Sequence[Sequence[Entry]], watch: Watch | None = None) -> list[Measurement]:
    taken: list[Measurement] = []
    with Relay("tests.measure.toaster:make", SLOTS, QUICK, taken.append, watch or Watch()) as relay:
        for entries in problems:
            relay.problem(entries, 0, random.Random(0))
    return taken


def failures(taken: Sequence[Measurement]) -> list[tuple[str, Failure]]:
    return [(m.candidate.id, m.failure) for m in taken if m.failure]


def pids(taken: Sequence[Measurement], backend: str) -> list[int]:
    return [m.context["pid"] for m in taken if m.metric == "build_time" and m.candidate.backend == backend]


def test_a_worker_serves_every_problem_and_lanes_are_apart() -> None:
    taken = run([[entry(1, "a.x"), entry(1, "b.x")], [entry(2, "a.x"), entry(2, "b.x")]])
    assert [len(set(pids(taken, backend))) for backend in ("a.x", "b.x")] == [1, 1]
    assert set(pids(taken, "a.x")) != set(pids(taken, "b.x"))
    rounds = [(m.candidate.workload, m.round) for m in taken if m.metric == "latency" and m.candidate.backend == "a.x"]
    assert rounds == [("toast/n1", 0), ("toast/n1", 1), ("toast/n2", 0), ("toast/n2", 1)]
    assert not failures(taken)


def test_a_wrong_answer_costs_one_problem_and_keeps_the_process() -> None:
    wrong = {"stage": "check", "bug": "mismatch"}
    taken = run([[entry(1, "a.x", **wrong), entry(1, "b.x")], [entry(2, "a.x"), entry(2, "b.x")]])
    ((where, failure),) = failures(taken)
    assert (where, failure.kind) == ("toast/n1/base/a.x/cpu/b1/t1", "mismatch")
    assert len(set(pids(taken, "a.x"))) == 1
    assert sum(m.metric == "latency" for m in taken) == 3 * QUICK.rounds


def test_a_crash_costs_one_problem_and_the_next_has_a_new_process() -> None:
    for stage in ("build", "time"):
        taken = run([[entry(1, "a.x", stage=stage, bug="crash"), entry(1, "b.x")], [entry(2, "a.x")]])
        ((where, failure),) = failures(taken)
        assert (where, failure.kind, failure.stage) == ("toast/n1/base/a.x/cpu/b1/t1", "crash", stage)
        assert [m.round for m in taken if m.metric == "latency" and m.candidate.workload == "toast/n2"] == [0, 1]
        assert sum(m.metric == "latency" and m.candidate.backend == "b.x" for m in taken) == QUICK.rounds


def test_what_dies_again_and_again_is_not_started_again() -> None:
    problems = [[entry(n, "a.x", stage="build", bug="exit"), entry(n, "b.x")] for n in range(MOST_DEATHS + 1)]
    taken = run(problems)
    assert [failure.kind for _, failure in failures(taken)] == ["crash"] * MOST_DEATHS + ["skipped"]
    assert sum(m.metric == "latency" for m in taken) == len(problems) * QUICK.rounds


def test_the_slow_are_skipped_with_the_reason() -> None:
    watch = Watch()
    entries = [entry(1, "slow.x", trial_s=0.5), entry(1, "fast.x", trial_s=0.1), entry(1, "near.x", trial_s=0.39)]
    taken = run([entries, [entry(2, "slow.x", trial_s=0.02), entry(2, "fast.x", trial_s=0.001)]], watch)
    ((where, failure),) = failures(taken)
    assert (where, failure.kind) == ("toast/n1/base/slow.x/cpu/b1/t1", "skipped")
    assert failure.message == "a call takes 0.5 s: over 4 times the fastest one's"
    assert {m.candidate.backend for m in taken if m.metric == "latency" and m.candidate.workload == "toast/n2"} == {
        "slow.x",
        "fast.x",
    }
    assert not [m for m in taken if m.metric in ("throughput", "trial")]
