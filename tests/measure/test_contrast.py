"""Two forms side by side: said to differ only where the measurements can tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from pyprod.measure.contrast import Contrast, contrast, in_words
from pyprod.types import Candidate, Failure, Measurement, PyprodError


def form(
    backend: str, ms: Sequence[float], right: Sequence[int], mb: float, recipe: str = "base", batch: int = 1
) -> Iterator[Measurement]:
    candidate = Candidate("toast", backend, recipe, batch=batch)
    notes = {"notes": ["burns", f"by {backend}"], "unit": "slice"}
    yield Measurement(candidate, "build_time", "s", (1.5,), context=notes)
    yield Measurement(candidate, "artifact_size", "bytes", (mb * 1e6,))
    if right:
        context = {"statistic": "mean", "truth": [], "cluster": []}
        yield Measurement(candidate, "accuracy", "mean", tuple(map(float, right)), context=context)
    for number, latency in enumerate(ms):
        yield Measurement(candidate, "latency", "ns", (latency * 1e6,) * 5, number)
        yield Measurement(candidate, "throughput", "1/s", (1e3 * batch / latency,), number)


SLOW = (10.0, 11.0, 10.5, 10.2, 10.8, 10.1, 10.4)
FAST = tuple(x / 2 + 0.05 * (i % 3) for i, x in enumerate(SLOW))
EVEN = tuple(x * (1.05 if i % 2 else 0.96) for i, x in enumerate(SLOW))
RIGHT = [1] * 60 + [0] * 40


def only(found: list[Contrast]) -> Contrast:
    (one,) = found
    return one


def test_faster_smaller_and_as_good() -> None:
    rows = [*form("a.int8", FAST, RIGHT, 1.0), *form("b.fp32", SLOW, RIGHT[::-1][::-1], 4.0)]
    found = only(contrast(rows, "a.int8", "b.fp32"))
    aspects = {a.name: a for a in found.aspects}
    assert aspects["latency"].effect.low < 0.51 < aspects["latency"].effect.high < 0.54
    assert {n: a.better for n, a in aspects.items()} == {
        "latency": "first",
        "throughput": "first",
        "accuracy": "alike",
        "p99 latency": "unknown",
        "size": "first",
        "build": "unknown",
    }
    assert found.notes == (("by a.int8",), ("by b.fp32",))
    assert in_words(found).startswith("1.97x faster, 4.00x smaller; alike in accuracy") or "faster" in in_words(found)
    back = only(contrast(rows, "b.fp32", "a.int8"))
    assert {a.name: a.better for a in back.aspects}["latency"] == "second"
    assert "4.00x larger" in in_words(back)


def test_what_can_not_be_told_apart_is_not() -> None:
    found = only(contrast([*form("a.x", EVEN, (), 1.0), *form("b.x", SLOW, (), 1.0)], "a.x", "b.x"))
    assert {a.name: a.better for a in found.aspects}["latency"] == "alike"
    assert "accuracy" not in {a.name for a in found.aspects}
    assert in_words(found).startswith("alike in latency")


def test_examples_that_only_one_gets_right() -> None:
    worse = list(RIGHT)
    worse[3:23] = [0] * 20
    worse[70] = 1
    found = only(contrast([*form("a.x", SLOW, worse, 1.0), *form("b.x", SLOW, RIGHT, 1.0)], "a.x", "b.x"))
    assert found.rows == ((70,), tuple(range(3, 23)))
    assert found.pairs is not None
    assert (found.pairs.lost, found.pairs.won) == (20, 1)
    assert found.pairs.p < 1e-4
    assert {a.name: a.better for a in found.aspects}["accuracy"] == "second"
    assert "less accurate by 0.1900" in in_words(found)


def test_every_cohort_that_has_both_and_recipes_by_name() -> None:
    rows = [
        m
        for batch in (1, 8)
        for m in (*form("a.x", FAST, (), 1.0, "half", batch), *form("a.x", SLOW, (), 1.0, "base", batch))
    ]
    found = contrast(rows, "half/a.x", "a.x")
    assert [f.cohort for f in found] == ["toast/cpu/b1/t1", "toast/cpu/b8/t1"]
    assert contrast(rows, "toast/half/a.x/cpu/b8/t1", "base/a.x")[0].cohort == "toast/cpu/b8/t1"


def test_names_that_are_not_there_and_forms_without_numbers() -> None:
    rows = [*form("a.x", SLOW, (), 1.0), *form("b.x", SLOW, (), 1.0, batch=8)]
    with pytest.raises(PyprodError, match=r"did you mean 'base/a\.x'"):
        contrast(rows, "a.y", "b.x")
    with pytest.raises(PyprodError, match="no cohort"):
        contrast(rows, "a.x", "b.x")
    failed = Measurement(Candidate("toast", "c.x"), "failure", "", (), failure=Failure("crash", "time", "died"))
    with pytest.raises(PyprodError, match=r"c\.x/cpu/b1/t1 has no numbers: died"):
        contrast([*rows, failed], "a.x", "c.x")
