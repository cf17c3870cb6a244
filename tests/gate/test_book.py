"""The book: events in, states and verdicts out; and evidence, from which they come again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pyprod.gate import evidence
from pyprod.gate.book import LATENCY, PEAK_MEMORY, THROUGHPUT, Book
from pyprod.gate.settings import Settings
from pyprod.measure.decide import Rule, Verdict
from pyprod.types import PyprodError

Event = dict[str, Any]


def plan() -> Event:
    settings = asdict(Settings())
    rule = settings.pop("rule")
    return {"kind": "plan", "format": 2, "rule": rule, "settings": settings, "tolerances": Settings().tolerances()}


def inventory(*names: str, vanished: tuple[str, ...] = ()) -> Event:
    files = dict.fromkeys(names, "bench/gate_toy.py")
    return {"kind": "inventory", "benchmarks": files, "vanished": list(vanished), "metrics": [LATENCY, THROUGHPUT]}


def sample(name: str, pair: int, base: float, head: float) -> Event:
    sides = {side: {"latency_ns": [value] * 9 + [50 * value]} for side, value in (("base", base), ("head", head))}
    return {"kind": "sample", "benchmark": name, "pair": pair, "first": "base", **sides}


def failure(name: str, side: str, kind: str = "error") -> Event:
    found = {"kind": kind, "stage": "slice", "message": "broken", "detail": ""}
    return {"kind": "failure", "benchmark": name, "pair": 0, "side": side, "failure": found}


def samples(name: str, ratio: float, pairs: int = 8) -> Iterator[Event]:
    for pair in range(pairs):
        for wobble in (0.999, 1.0, 1.001):
            yield sample(name, pair, 1000, 1000 * ratio * wobble * (1 + pair / 1e5))


def throttled(event: Event, side: str) -> Event:
    return event | {side: event[side] | {"throttled": ["power cap"]}}


LOOK = {"kind": "look", "fraction": 1.0}


def book(*events: Event) -> Book:
    found = Book()
    for event in (plan(), *events):
        found.feed(event)
    return found


def test_turns_of_a_gpu_that_was_held_back_do_not_count() -> None:
    """Counted they would fail: HEAD is three times as slow in them."""
    slow = [throttled(sample("work", pair, 1000, 3000), "head") for pair in range(8) for _ in range(4)]
    found = book(inventory("work"), *samples("work", 1.0), *slow, LOOK)
    row = found.rows["work", LATENCY]
    assert (row.verdict, row.throttled) == (Verdict.PASS, 32)
    found = book(inventory("work"), *slow, LOOK)
    assert found.verdict is Verdict.UNDECIDED


def test_what_a_device_says_of_itself_is_said_once() -> None:
    device = {"kind": "device", "benchmark": "work", "pair": 0, "side": "base", "graph": True, "biases": ["MIG"]}
    assert book(device, device | {"pair": 1}).biases == ["MIG"]


def test_slower_fails_and_level_passes() -> None:
    found = book(inventory("slow", "level"), *samples("slow", 1.05), *samples("level", 1.0), LOOK)
    assert found.rows["slow", LATENCY].verdict is Verdict.FAIL
    assert found.rows["level", LATENCY].verdict is Verdict.PASS
    assert found.verdict is Verdict.FAIL
    assert found.rows["slow", LATENCY].decision.ratio.value == pytest.approx(1.05, rel=1e-3)  # type: ignore[union-attr]


def test_a_pair_counts_once_and_the_median_of_its_turns() -> None:
    events = [sample("x", pair, 1000, head) for pair in range(6) for head in (1000, 1000, 9000)]
    found = book(inventory("x"), *events, LOOK)
    assert found.rows["x", LATENCY].logs() == [0.0] * 6
    assert found.rows["x", LATENCY].decision.ratio.n == 6  # type: ignore[union-attr]


def test_undecided_until_a_look_with_enough_pairs() -> None:
    assert book(inventory("x"), *samples("x", 1.0)).verdict is Verdict.UNDECIDED
    assert book(inventory("x"), *samples("x", 1.0, pairs=4), LOOK).verdict is Verdict.UNDECIDED
    assert book(inventory("x"), *samples("x", 1.0), LOOK).open_benchmarks() == []


@pytest.mark.parametrize(
    ("events", "state", "verdict"),
    [
        ([failure("x", "head")], "failed", Verdict.FAIL),
        ([failure("x", "base")], "new", None),
        ([failure("x", "base"), failure("x", "head")], "skipped", None),
        ([failure("x", "head"), failure("x", "base")], "skipped", None),
        ([*samples("x", 1.0), LOOK, failure("x", "head", "crash")], "failed", Verdict.FAIL),
    ],
)
def test_what_does_not_run(events: list[Event], state: str, verdict: Verdict | None) -> None:
    found = book(inventory("x"), *events)
    assert found.rows["x", LATENCY].state == state
    assert found.rows["x", LATENCY].reason
    assert found.verdict is verdict
    assert found.open_benchmarks() == []


def test_what_vanished_fails() -> None:
    found = book(inventory("x", vanished=("gone",)), *samples("x", 1.0), LOOK)
    assert found.rows["gone", LATENCY].verdict is Verdict.FAIL
    assert found.verdict is Verdict.FAIL


@pytest.mark.parametrize(("error", "verdict"), [(0.0, None), (0.04, None), (0.06, Verdict.FAIL), (None, Verdict.FAIL)])
def test_outputs(error: float | None, verdict: Verdict | None) -> None:
    found = book(inventory("x"), {"kind": "output", "benchmark": "x", "pair": 0, "relative_error": error})
    assert found.rows["x", LATENCY].verdict is (verdict or Verdict.UNDECIDED)


def test_what_slows_some_calls_shows_in_the_throughput() -> None:
    def turn(pair: int) -> Event:
        found = sample("x", pair, 1000, 1000)
        found["head"]["latency_ns"] = [1000.0, 1000.0, 1800.0] * 5
        found["base"]["latency_ns"] = [1000.0] * 15
        return found

    found = book(inventory("x"), *map(turn, range(6)), LOOK)
    assert found.rows["x", LATENCY].verdict is Verdict.PASS
    assert found.rows["x", THROUGHPUT].verdict is Verdict.FAIL
    assert found.rows["x", THROUGHPUT].decision.ratio.value == pytest.approx(3.8 / 3)  # type: ignore[union-attr]


def test_memory_is_a_row_of_its_own() -> None:
    values = [
        {"kind": "value", "benchmark": "x", "metric": PEAK_MEMORY, "pair": pair, "base": 100, "head": 110}
        for pair in range(6)
    ]
    names = inventory("x") | {"metrics": [LATENCY, THROUGHPUT, PEAK_MEMORY]}
    found = book(names, *samples("x", 1.0), *values, LOOK)
    assert found.rows["x", LATENCY].verdict is Verdict.PASS
    assert found.rows["x", PEAK_MEMORY].verdict is Verdict.FAIL


@pytest.mark.parametrize(("head", "verdict"), [(100, Verdict.PASS), (124, Verdict.PASS), (126, Verdict.FAIL)])
def test_a_size_needs_no_look(head: int, verdict: Verdict) -> None:
    found = book({"kind": "exact", "benchmark": "lib.so", "metric": "size", "base": 100, "head": head})
    assert found.verdict is verdict


def test_a_nan_decides_nothing() -> None:
    assert book(inventory("x"), *samples("x", float("nan")), LOOK).verdict is Verdict.UNDECIDED


def test_nothing_compared() -> None:
    assert book(inventory()).verdict is None


def test_an_event_of_the_future_is_refused() -> None:
    with pytest.raises(PyprodError, match="newer pyprod"):
        book({"kind": "prophecy"})


def write(path: Path, *events: Event) -> Book:
    found = Book()
    with evidence.Writer(path, found) as writer:
        for event in (plan(), *events):
            writer.record(event["kind"], **{k: v for k, v in event.items() if k != "kind"})
        writer.record("verdict", **evidence.summary(found))
    return found


def test_replay_comes_to_the_same_verdict(tmp_path: Path) -> None:
    written = write(tmp_path / evidence.NAME, inventory("slow", "x"), *samples("slow", 1.05), *samples("x", 1.0), LOOK)
    again = evidence.replay(tmp_path)
    assert evidence.summary(again) == evidence.summary(written)
    assert again.rows["slow", LATENCY].decision == written.rows["slow", LATENCY].decision


def test_altered_evidence_is_found(tmp_path: Path) -> None:
    path = tmp_path / evidence.NAME
    write(path, inventory("slow"), *samples("slow", 1.05), LOOK)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        if event["kind"] == "sample":
            event["head"] = event["base"]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    with pytest.raises(PyprodError, match="altered"):
        evidence.replay(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "plan"', "damaged"),
        ("[]", "damaged"),
        ('{"kind": "look", "fraction": 1}', "no evidence of format 2"),
        ('{"kind": "plan", "format": 1}', "no evidence of format 2"),
    ],
)
def test_what_is_no_evidence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / evidence.NAME).write_text(text)
    with pytest.raises(PyprodError, match=message):
        evidence.replay(tmp_path)


def test_no_evidence_at_all(tmp_path: Path) -> None:
    with pytest.raises(PyprodError, match="can't read evidence"):
        evidence.replay(tmp_path / "nowhere")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from pyprod.gate.book import Book
from pyprod.gate.evidence import Writer
from pyprod.types import PyprodError
from tests.gate.test_book import inventory, plan

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write past the limit is an error, as on a full disk
path = Path(sys.argv[1])
with Writer(path, Book()) as writer:
    first = plan()
    writer.record(first.pop("kind"), **first)
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, size + 10))
    try:
        writer.record("inventory", benchmarks={}, vanished=[], metrics=[])
    except PyprodError as error:
        print(error)
"""


def test_a_full_disk_keeps_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / evidence.NAME
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True)
    assert "the evidence up to here is kept" in done.stdout, done.stderr
    assert [event["kind"] for event in evidence.read(path)] == ["plan"]
    assert signal.SIGXFSZ  # Linux


def test_the_rule_is_the_evidence_s_own() -> None:
    strict = plan()
    strict["rule"] = asdict(Rule(tolerance=0.001))
    strict["tolerances"] = strict["tolerances"] | {LATENCY: 0.001}
    found = Book()
    for event in (strict, inventory("x"), *samples("x", 1.01), LOOK):
        found.feed(event)
    assert found.verdict is Verdict.FAIL
