"""Timing one callable: raw durations of single calls, and warming up until they are steady."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

try:
    from pyprod._probe import CLOCK
    from pyprod._probe import sample as sample_natively

    TIMER = f"native, {CLOCK}"  #: What takes the samples, for the record.
except ImportError:  # the extension is not built
    TIMER = "python"

#: A window of calls is long enough to have a median worth comparing at 5 calls or 50 ms, whichever is more.
WINDOW_CALLS = 5
WINDOW_NS = 50_000_000
#: Two windows agree when their medians differ by less than this: about the noise of a shared machine.
STEADY = 0.03


def sample(call: Callable[[], object], max_count: int, max_ns: int) -> list[int]:
    """Call at least once, until `max_count` calls or `max_ns` have passed; the duration of each call in ns.

    By the loop in C++ where the extension is built, else by its twin in Python; `TIMER` says which.
    """
    if TIMER == "python":
        return sample_in_python(call, max_count, max_ns)
    durations = sample_natively(call, max_count, max(1, max_ns))  # there, 0 is no limit
    return memoryview(durations).cast("q").tolist()


def sample_in_python(call: Callable[[], object], max_count: int, max_ns: int) -> list[int]:
    """The slow obvious twin of `sample`: the interpreter adds about 0.1 µs to each duration."""
    now = time.perf_counter_ns
    durations: list[int] = []
    deadline = now() + max_ns
    while len(durations) < max_count:
        start = now()
        call()
        end = now()
        durations.append(end - start)
        if end >= deadline:
            break
    return durations


class Warmup(NamedTuple):
    """How a warm-up went: `steady` is False when the time was up before two windows agreed."""

    calls: int
    elapsed_ns: int
    steady: bool


def warm_up(call: Callable[[], object], max_ns: int, window_ns: int = WINDOW_NS) -> Warmup:
    """Call until the medians of two successive windows differ by less than `STEADY`, for `max_ns` at most."""
    calls = elapsed = 0
    previous = float("inf")
    while elapsed < max_ns:
        window: list[int] = []
        while len(window) < WINDOW_CALLS or sum(window) < window_ns:
            window += sample(call, max_count=1000, max_ns=window_ns)
            if elapsed + sum(window) >= max_ns:
                break
        calls += len(window)
        elapsed += sum(window)
        median = statistics.median(window)
        if abs(median - previous) < STEADY * previous:
            return Warmup(calls, elapsed, True)
        previous = median
    return Warmup(calls, elapsed, False)
