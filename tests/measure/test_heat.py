"""The harness with subjects that are no models: real processes that work, die, hang and lie."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyprod.measure import heat, memory
from pyprod.measure.heat import Entry, Settings
from pyprod.types import Candidate, Failure, Measurement

QUICK = Settings(rounds=3, slice_s=0.01, max_samples=5, warmup_s=0.05, timeout_s=60)
CPUS = sorted(os.sched_getaffinity(0))
SLOTS = {number: [cpu] for number, cpu in enumerate(CPUS[:2])}
BASELINE = Candidate("toast", "eager.fp32")


class Watch:
    """Counts what a progress bar would show."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.failures: list[Failure] = []

    def planned(self, steps: int) -> None:
        self.total += steps

    def step(self, what: str) -> None:
        self.done += 1

    def failed(self, candidate: Candidate, failure: Failure) -> None:
        self.failures.append(failure)


def entry(name: str, **payload: Any) -> Entry:
    return Entry(Candidate("toast", name), payload)


def run(
    entries: Iterable[Entry], settings: Settings = QUICK, first_round: int = 0, watch: Watch | None = None
) -> list[Measurement]:
    taken: list[Measurement] = []
    baseline = [Entry(BASELINE, {}), Entry(BASELINE, {}, 1, False)]
    args = (SLOTS, settings, first_round, taken.append, watch or Watch())
    heat.run("tests.measure.toaster:make", baseline, list(entries), *args)
    return taken


def of(taken: list[Measurement], backend: str, metric: str, replica: int = 0) -> list[Measurement]:
    return [m for m in taken if (m.candidate.backend, m.metric, m.replica) == (backend, metric, replica)]


def living_children() -> set[psutil.Process]:
    return {p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}


def test_every_round_times_everyone_once() -> None:
    watch = Watch()
    taken = run([entry("a.x", toast_ms=1), entry("b.x", toast_ms=4)], watch=watch)
    for backend, replica in (("eager.fp32", 0), ("eager.fp32", 1), ("a.x", 0), ("b.x", 0)):
        latency = of(taken, backend, "latency", replica)
        assert [m.round for m in latency] == [0, 1, 2]
        assert all(1 <= len(m.samples) <= QUICK.max_samples for m in latency)
        assert len(of(taken, backend, "peak_rss", replica)) == 1
    assert min(of(taken, "b.x", "latency")[0].samples) >= 4e6
    assert watch.done == watch.total == 4 * (1 + QUICK.rounds)


def test_a_spent_budget_takes_the_fewest_rounds_and_asks_for_memory_all_the_same() -> None:
    watch = Watch()
    taken = run([entry("a.x")], dataclasses.replace(QUICK, rounds=9, budget_s=0), watch=watch)
    assert [m.round for m in of(taken, "a.x", "latency")] == list(range(heat.FEWEST_ROUNDS))
    assert len(of(taken, "a.x", "peak_rss")) == 1
    assert watch.done == watch.total == 3 * (1 + heat.FEWEST_ROUNDS)


def test_the_allocator_keeps_what_is_freed() -> None:
    """Faults of a process that frees and takes 8 MB again and again: glibc's defaults unmap it each time."""
    taken = run([entry("a.x", allocate=8 << 20)])
    (faults,) = of(taken, "a.x", "faults")[0].samples
    assert faults < 100


def test_throughput_counts_samples_not_calls() -> None:
    taken = run([entry("a.x", toast_ms=5)])
    (per_second,) = of(taken, "a.x", "throughput")[0].samples
    per_call = sum(of(taken, "a.x", "latency")[0].samples) / len(of(taken, "a.x", "latency")[0].samples)
    assert per_second == pytest.approx(2e9 / per_call, rel=0.1)  # two toasts a call


def test_fresh_pinned_processes() -> None:
    taken = run([entry("a.x")])
    builds = [m for m in taken if m.metric == "build_time"]
    assert len({m.context["pid"] for m in builds} | {os.getpid()}) == 4
    assert all(m.context["cpus"] in SLOTS.values() for m in builds)


def test_only_one_replica_is_scored() -> None:
    taken = run([entry("a.x")])
    assert len(of(taken, "eager.fp32", "accuracy")) == 1
    assert not of(taken, "eager.fp32", "accuracy", replica=1)


@pytest.mark.parametrize("stage", ["build", "check", "score", "release", "warmup", "time", "memory"])
@pytest.mark.parametrize(
    ("bug", "kind", "message"),
    [("raise", "error", "ValueError: burnt toast"), ("crash", "crash", "killed by SIGSEGV")],
)
def test_a_failure_at_any_stage_is_a_row_and_the_others_go_on(stage: str, bug: str, kind: str, message: str) -> None:
    watch = Watch()
    taken = run([entry("bad.x", stage=stage, bug=bug), entry("good.x")], watch=watch)
    (failed,) = of(taken, "bad.x", "failure")
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.stage, failed.failure.message) == (kind, stage, message)
    assert "smoke!" in failed.failure.detail or bug == "raise"
    assert str(Path(__file__).parents[2]) not in failed.failure.detail
    assert len(of(taken, "good.x", "latency")) == QUICK.rounds
    assert [f.message for f in watch.failures] == [message]


@pytest.mark.parametrize(
    ("bug", "kind", "message"),
    [
        ("unavailable", "unavailable", "no bread (buy some)"),
        ("mismatch", "mismatch", "that is a bagel"),
        ("out_of_memory", "out_of_memory", "MemoryError: no more crumbs"),
        ("exit", "crash", "exited with status 7"),
    ],
)
def test_failures_have_their_kind(bug: str, kind: str, message: str) -> None:
    (failed,) = of(run([entry("bad.x", stage="check", bug=bug)]), "bad.x", "failure")
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.message) == (kind, message)


def test_a_hang_ends_at_the_time_limit() -> None:
    start = time.monotonic()
    settings = Settings(rounds=1, slice_s=0.01, warmup_s=0.05, timeout_s=10)  # a start takes 1 s, under load several
    taken = run([entry("slow.x", stage="score", bug="hang"), entry("good.x")], settings)
    (failed,) = of(taken, "slow.x", "failure")
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.stage) == ("timeout", "score")
    assert of(taken, "good.x", "latency")
    assert time.monotonic() - start < 60


def test_a_worker_killed_from_outside_is_a_row() -> None:
    taken: list[Measurement] = []

    def kill(measurement: Measurement) -> None:
        taken.append(measurement)
        if measurement.metric == "latency" and measurement.candidate.backend == "bad.x" and measurement.round == 0:
            (build,) = of(taken, "bad.x", "build_time")
            psutil.Process(build.context["pid"]).kill()

    entries = [entry("bad.x"), entry("good.x")]
    heat.run("tests.measure.toaster:make", [Entry(BASELINE, {})], entries, SLOTS, QUICK, 0, kill, Watch())
    (failed,) = of(taken, "bad.x", "failure")
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.message) == ("crash", "killed by SIGKILL")
    assert len(of(taken, "bad.x", "latency")) == 1
    assert len(of(taken, "good.x", "latency")) == QUICK.rounds


def test_an_interrupt_ends_every_worker_and_records_no_failure() -> None:
    before, threads = living_children(), threading.active_count()  # pools of what other tests compiled live on
    for stage in ("build", "latency"):
        taken: list[Measurement] = []

        def interrupt(measurement: Measurement, stage: str = stage, taken: list[Measurement] = taken) -> None:
            taken.append(measurement)
            if measurement.metric.startswith(stage):
                raise KeyboardInterrupt

        args = (SLOTS, QUICK, 0, interrupt, Watch())
        with pytest.raises(KeyboardInterrupt):
            heat.run("tests.measure.toaster:make", [Entry(BASELINE, {})], [entry("a.x"), entry("b.x")], *args)
        assert not [m for m in taken if m.failure]
        assert living_children() <= before
        assert threading.active_count() == threads


def test_what_memory_cannot_hold_waits_for_the_next_heat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 0)
    taken = run([entry("a.x"), entry("b.x")], first_round=5)
    assert [m.round for m in of(taken, "a.x", "latency")] == [5, 6, 7]
    assert [m.round for m in of(taken, "b.x", "latency")] == [8, 9, 10]
    assert [m.round for m in of(taken, "eager.fp32", "latency")] == [5, 6, 7, 8, 9, 10]


def test_scratch_files_go_with_the_heat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    run([entry("a.x")])
    assert list(tmp_path.iterdir()) == []
