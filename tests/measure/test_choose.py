"""The form to ship: only what keeps to every demand with confidence, and no winner within the noise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pyprod.measure.choose import choose, quantile_interval
from pyprod.types import Candidate, Measurement, PyprodError

ROUNDS = 12


def form(backend: str, ms: float, *, noise: float = 0.02, size: float = 50, correct: float = 0.9, recipe: str = "base",
         calls: int = 60, examples: int = 2000) -> list[Measurement]:  # fmt: skip
    """Measurements of one form: `correct` of the examples, the first ones, are right."""
    candidate = Candidate("toy", backend, recipe)
    found = [
        Measurement(candidate, "latency", "ns", tuple(ms * 1e6 * np.exp(noise * np.random.standard_normal(calls))), r)
        for r in range(ROUNDS)
    ]
    rates = [1e3 / ms * math.exp(noise * np.random.standard_normal()) for _ in range(ROUNDS)]
    found += [Measurement(candidate, "throughput", "samples/s", (rate,), r) for r, rate in enumerate(rates)]
    right = (np.arange(examples) < correct * examples).astype(float)
    context = {"statistic": "mean", "truth": [], "cluster": []}
    found.append(Measurement(candidate, "accuracy", "mean", tuple(right), context=context))
    found.append(Measurement(candidate, "artifact_size", "bytes", (size * 1e6,)))
    found.append(Measurement(candidate, "peak_rss", "bytes", (3e8,)))
    return found


def test_the_fastest_that_keeps_to_all_demands() -> None:
    forms = form("eager.fp32", 10) + form("fast.int8", 2, correct=0.8) + form("good.int8", 3, size=20)
    forms += form("big.int8", 2.5, size=90)
    (choice,) = choose(forms, {"accuracy_drop": 0.01, "p99_ms": 5, "size_mb": 60}, "latency")
    assert (choice.cohort, choice.trust) == ("toy/cpu/b1/t1", "unchecked")
    assert choice.chosen == "toy/base/good.int8/cpu/b1/t1"
    assert choice.alike == ()
    assert "accuracy_drop missed" in choice.lost["toy/base/fast.int8/cpu/b1/t1"]
    assert "size_mb missed (90 [90, 90])" in choice.lost["toy/base/big.int8/cpu/b1/t1"]
    assert "p99_ms missed" in choice.lost["toy/base/eager.fp32/cpu/b1/t1"]


def test_within_the_noise_the_smaller_one_is_taken() -> None:
    """One draw in twenty may tell even equals apart: the interval is one of 95%."""
    taken = 0
    for _ in range(20):
        forms = (
            form("eager.fp32", 10, examples=10)
            + form("a.int8", 3.0, noise=0.3, calls=3, examples=10)
            + form("b.int8", 3.01, noise=0.3, calls=3, size=20, examples=10)
        )
        (choice,) = choose(forms, {}, "latency")
        if choice.alike:
            assert choice.chosen == "toy/base/b.int8/cpu/b1/t1"
            assert choice.alike == ("toy/base/a.int8/cpu/b1/t1",)
            taken += 1
    assert taken >= 13


def test_forms_that_were_never_measured_side_by_side_are_told_apart() -> None:
    """Where not all fit into memory, each batch of forms has rounds of its own, with the baseline in all."""

    def later(found: list[Measurement]) -> list[Measurement]:
        return [replace(m, round=m.round + ROUNDS) if m.metric in ("latency", "throughput") else m for m in found]

    base = form("eager.fp32", 10)
    timed = [m for m in later(form("eager.fp32", 10)) if m.metric in ("latency", "throughput")]
    forms = base + timed + form("fast", 3, size=90) + later(form("slow", 9, size=20))
    for prefer in ("latency", "throughput"):
        (choice,) = choose(forms, {}, prefer)
        assert choice.chosen == "toy/base/fast/cpu/b1/t1"
        assert choice.alike == ()


def test_what_is_not_sure_is_not_chosen() -> None:
    """Ten of a hundred examples lost: the interval holds both what is allowed and what is not."""
    forms = form("eager.fp32", 10, correct=0.9, examples=100) + form("x.int8", 3, correct=0.885, examples=100)
    (choice,) = choose(forms, {"accuracy_drop": 0.02}, "latency")
    assert choice.chosen == "toy/base/eager.fp32/cpu/b1/t1"
    assert choice.judged["toy/base/x.int8/cpu/b1/t1"][0].verdict == "unclear"
    few = form("eager.fp32", 10, calls=2)
    (choice,) = choose(few, {"p99_ms": 50}, "latency")
    assert choice.chosen is None, "24 calls say nothing of the 99th percentile"
    assert "more calls" in choice.nearest["toy/base/eager.fp32/cpu/b1/t1"]


def test_a_demand_that_nobody_meets_has_nearest_forms_and_their_price() -> None:
    forms = form("eager.fp32", 10) + form("a.int8", 3, size=40) + form("b.int8", 4.25, noise=0, size=31)
    (choice,) = choose(forms, {"p50_ms": 3.5, "size_mb": 30}, "latency")
    assert choice.chosen is None
    first, second, _ = choice.nearest.items()
    assert first[0] == "toy/base/b.int8/cpu/b1/t1"
    assert "size_mb = 31 instead of 30" in first[1]
    assert "p50_ms = 4.25 instead of 3.5" in first[1]
    assert second == ("toy/base/a.int8/cpu/b1/t1", "size_mb = 40 instead of 30")


@pytest.mark.parametrize(
    ("prefer", "best"), [("latency", "a.int8"), ("throughput", "a.int8"), ("size", "b.int8"), ("memory", "b.int8")]
)
def test_what_is_preferred(prefer: str, best: str) -> None:
    forms = form("eager.fp32", 10) + form("a.int8", 3, size=40) + form("b.int8", 4, size=31)
    (choice,) = choose(forms, {}, prefer)
    assert choice.chosen == f"toy/base/{best}/cpu/b1/t1"


def test_speed_up_and_throughput_are_demands_too() -> None:
    forms = form("eager.fp32", 10) + form("a.int8", 3)
    (choice,) = choose(forms, {"speedup": 3.2, "throughput_per_s": 300}, "latency")
    assert choice.chosen == "toy/base/a.int8/cpu/b1/t1"
    (choice,) = choose(forms, {"speedup": 3.5, "throughput_per_s": 300}, "latency")
    assert choice.chosen is None


def test_unknown_demands_and_preferences() -> None:
    with pytest.raises(PyprodError, match="unknown demand 'p98'"):
        choose([], {"p98": 1}, "latency")
    with pytest.raises(PyprodError, match="unknown preference 'luck'"):
        choose([], {}, "luck")


def test_intervals_of_quantiles_cover() -> None:
    """By order statistics: at least 95%, whatever the distribution."""
    covered, truth = 0, math.exp(1.6448536269514722)
    for _ in range(2000):
        low, high = quantile_interval(np.exp(np.random.standard_normal(300)), 0.95)
        covered += low <= truth <= high
    assert covered > 0.94 * 2000
    assert math.isnan(quantile_interval(np.arange(367.0), 0.99)[1])
    assert quantile_interval(np.arange(369.0), 0.99)[1] == 368
