"""Timing one callable: raw durations of single calls, and warming up until they are steady."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

try:
    from pyprod._probe import CLOCK
    from pyprod._probe import sample as sample_natively

    TIMER = f"native, {CLOCK}"  #: What takes the samples, for the record.
except ImportError:  # the extension is not built
    TIMER = "python"

#: The median of a window of calls is one value of the series that must be steady. It ends after so long, or so many.
WINDOW_NS = 10_000_000
WINDOW_CALLS = 1000
#: The fewest values in which `change_point` can find one at its level: with 11 its least p is 0.052.
WINDOWS = 12
#: A change of less than this is none that matters: well below the noise of a shared machine.
NEGLIGIBLE = 0.01


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
    """How a warm-up went: `steady` is False when the time was up before the calls were."""

    calls: int
    elapsed_ns: int
    steady: bool


def warm_up(call: Callable[[], object], max_ns: int, window_ns: int = WINDOW_NS) -> Warmup:
    """Call until the medians of the last `WINDOWS` windows show no change, for `max_ns` at most.

    What comes before a change belongs to the warm-up and is forgotten; the search goes on in the rest. (Barrett et al.,
    Virtual Machine Warmup Blows Hot and Cold, OOPSLA 2017, find the steady state so, in a finished run.)
    """
    calls = elapsed = 0
    medians: list[float] = []
    while elapsed < max_ns:
        window = sample(call, WINDOW_CALLS, window_ns)
        calls += len(window)
        elapsed += sum(window)
        medians.append(statistics.median(window))
        if len(medians) < WINDOWS:
            continue
        at = change_point(medians)
        if at is None or abs(statistics.median(medians[at:]) / statistics.median(medians[:at]) - 1) < NEGLIGIBLE:
            return Warmup(calls, elapsed, True)
        del medians[:at]
    return Warmup(calls, elapsed, False)


def change_point(values: Sequence[float], level: float = 0.05) -> int | None:
    """Where a series changes its level, once, if it does: the index of the first value after. By ranks alone.

    Whether by Pettitt, A non-parametric approach to the change-point problem, Applied Statistics 28 (1979). Where by
    the same sums over their deviations (Mann and Whitney): Pettitt's maximum leans to the middle.

    Args:
        level: probability of finding a change in values that are all from one distribution; Pettitt's approximation of
            it, which errs on the side of finding none.
    """
    x, n = np.asarray(values, dtype=float), len(values)
    above = np.sign(x[:, None] - x[None, :])
    # u[t]: how much more often a value before t is above one from t on than below it
    u = np.array([above[:t, t:].sum() for t in range(1, n)])
    if not len(u):
        return None
    p = 2 * math.exp(-6 * float(np.abs(u).max()) ** 2 / (n**3 + n**2))
    t = np.arange(1, n)
    return int(np.argmax(np.abs(u) / np.sqrt(t * (n - t)))) + 1 if p <= level else None
