"""The sampling loop and the warm-up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest

from pyprod.measure import sampling


def spin(ms: float) -> None:
    end = time.perf_counter() + ms / 1000
    while time.perf_counter() < end:
        pass


Sample = Callable[[Callable[[], object], int, int], list[int]]
both = pytest.mark.parametrize("sample", [sampling.sample, sampling.sample_in_python])


@both
def test_durations_are_those_of_single_calls(sample: Sample) -> None:
    durations = sample(lambda: spin(2), 20, 10**9)
    assert len(durations) == 20
    assert min(durations) >= 2e6
    assert sorted(durations)[10] < 3e6


@both
def test_the_time_limit_holds_but_one_call_is_always_made(sample: Sample) -> None:
    assert len(sample(lambda: spin(2), 1000, 10_000_000)) <= 5
    assert len(sample(lambda: spin(2), 1000, 0)) == 1


@both
def test_what_the_call_raises_comes_through(sample: Sample) -> None:
    with pytest.raises(ZeroDivisionError):
        sample(lambda: 1 / 0, 10, 0)


def test_the_native_loop_is_built_and_costs_less_than_its_twin() -> None:
    assert sampling.TIMER.startswith("native")
    native, python = [min(s(int, 20_000, 10**9)) for s in (sampling.sample, sampling.sample_in_python)]
    assert native <= python


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
