"""The sampling loop and the warm-up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
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
    assert min(durations) < 3e6


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


def simulated(monkeypatch: pytest.MonkeyPatch, duration_ms: Callable[[int], float]) -> None:
    """Let call number n take ``duration_ms(n)``, so that no load on the machine decides what is steady."""
    calls = itertools.count()

    def sample(call: Callable[[], object], max_count: int, max_ns: int) -> list[int]:
        durations: list[int] = []
        while len(durations) < max_count and sum(durations) < max_ns:
            durations.append(int(duration_ms(next(calls)) * 1e6))
        return durations

    monkeypatch.setattr(sampling, "sample", sample)


def test_a_call_that_gets_faster_is_warmed_up_until_it_is_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(monkeypatch, lambda n: 100 - 4 * n if n < 20 else 20 + 0.1 * (n % 3))
    done = sampling.warm_up(int, max_ns=10 * 10**9)
    assert done.steady
    assert 20 < done.calls < 40


def test_noise_alone_is_steady_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    steady_at_once = 0
    for _ in range(200):
        simulated(monkeypatch, lambda n: float(rng.lognormal(3, 0.2)))
        steady_at_once += sampling.warm_up(int, max_ns=10 * 10**9).calls == sampling.WINDOWS
    assert steady_at_once >= 180  # at a level of 5%


def test_a_change_is_found_where_it_is() -> None:
    rng = np.random.default_rng(0)
    for before, after in ((10, 10), (6, 30), (30, 6)):
        found = []
        for _ in range(100):
            at = sampling.change_point([*rng.normal(100, 3, before), *rng.normal(80, 3, after)])
            found.append(at is not None and abs(at - before) <= 3)
        assert sum(found) >= 90, (before, after)
    assert sampling.change_point([1.0] * 50) is None
    assert sampling.change_point([]) is None


def test_a_change_too_small_to_matter_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(monkeypatch, lambda n: 20.1 if n < 6 else 20.0)
    assert sampling.warm_up(int, max_ns=10 * 10**9).calls == sampling.WINDOWS


def test_a_call_that_never_settles_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(monkeypatch, lambda n: 10 * 1.05**n)
    done = sampling.warm_up(int, max_ns=3 * 10**9)
    assert not done.steady
    assert 3 * 10**9 <= done.elapsed_ns < 4 * 10**9


def test_a_call_slower_than_the_limit_ends_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(monkeypatch, lambda n: 1000)
    assert sampling.warm_up(int, max_ns=500_000_000) == (1, 10**9, False)
