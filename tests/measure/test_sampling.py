"""The sampling loop and the warm-up."""

from __future__ import annotations

import itertools
import time

from pyprod.measure import sampling


def spin(ms: float) -> None:
    end = time.perf_counter() + ms / 1000
    while time.perf_counter() < end:
        pass


def test_durations_are_those_of_single_calls() -> None:
    durations = sampling.sample(lambda: spin(2), max_count=20, max_ns=10**9)
    assert len(durations) == 20
    assert min(durations) >= 2e6
    assert sorted(durations)[10] < 3e6


def test_the_time_limit_holds_but_one_call_is_always_made() -> None:
    assert len(sampling.sample(lambda: spin(2), max_count=1000, max_ns=10_000_000)) <= 5
    assert len(sampling.sample(lambda: spin(2), max_count=1000, max_ns=0)) == 1


def test_a_call_that_gets_faster_is_warmed_up_until_it_is_steady() -> None:
    calls = itertools.count()
    done = sampling.warm_up(lambda: spin(4 if next(calls) < 20 else 0.5), max_ns=3 * 10**9)
    assert done.steady
    assert done.calls > 20


def test_a_call_that_never_settles_says_so() -> None:
    calls = itertools.count(1)
    done = sampling.warm_up(lambda: spin(0.5 * next(calls)), max_ns=300_000_000)
    assert not done.steady
    assert 300_000_000 <= done.elapsed_ns < 600_000_000
