"""What asv has recorded over the commits, and where it stepped: by asv's own step detection, with the commit range.

asv keeps the history; a gate keeps a merge. A step that no gate stopped (two small ones in a row, a change of the
machine) shows here.
"""

from __future__ import annotations

import fnmatch
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyprod import discover
from pyprod.types import PyprodError, Unavailable


@dataclass(frozen=True)
class Series:
    """One benchmark with one set of parameters on one machine, in the order of the commits' dates.

    Attributes:
        name: "bench_ops.Linear.time_int8_gemm(32x384x1536, 1)".
        commits: full hashes.
        values: NaN where the benchmark failed; smaller is better, as in asv.
    """

    machine: str
    name: str
    commits: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """Where a series went from one level to another.

    Attributes:
        last, first: hashes of the last commit on the level `before` and of the first on the level `after`: the change
            is in ``git log last..first``.
        start, end: positions in the series of the level that begins here.
    """

    series: Series
    last: str
    first: str
    before: float
    after: float
    start: int
    end: int

    @property
    def ratio(self) -> float:
        """After over before: above 1 is worse."""
        return self.after / self.before


def read(results: Path, patterns: Sequence[str] = (), machine: str = "") -> list[Series]:
    """All series below asv's folder of results, sorted by machine and name.

    Args:
        patterns: globs of names; empty for all.

    Raises:
        Unavailable: asv is not installed.
        PyprodError: there are no results, or none that match.
    """
    try:
        from asv.results import iter_results
    except ModuleNotFoundError as error:
        raise Unavailable("asv is not installed", "pip install asv") from error
    if not results.is_dir():
        raise PyprodError(f"there are no results in {results}: make some with asv run, or name their folder")
    points: dict[tuple[str, str], list[tuple[int, str, float]]] = defaultdict(list)
    for found in iter_results(str(results)):
        for key in found.get_all_result_keys():
            grid = list(itertools.product(*found.get_result_params(key)))
            values = found.get_result_value(key, found.get_result_params(key))
            for parameters, value in zip(grid, values, strict=True):
                number = math.nan if value is None else float(value)
                points[found.params["machine"], _named(key, parameters)].append((found.date, found.commit_hash, number))
    series = [_ordered(where, name, values) for (where, name), values in sorted(points.items())]
    chosen = [s for s in series if _wanted(s, patterns, machine)]
    if not chosen:
        wanted = ", ".join([*patterns, *filter(None, [machine])]) or "anything"
        raise PyprodError(discover.unknown("benchmark or machine", wanted, {s.name for s in series}))
    return chosen


def steps(series: Series, threshold: float) -> Iterator[Step]:
    """Changes of level by more than `threshold` (0.03 is 3%), oldest first.

    By `asv.step_detect`: the piecewise constant function that fits best, at a price for each step.
    """
    from asv.step_detect import detect_steps

    values = [None if math.isnan(v) else v for v in series.values]
    levels = detect_steps(values)
    for (_, stop, before, _, _), (start, end, after, _, _) in itertools.pairwise(levels):
        if before > 0 and after > 0 and abs(math.log(after / before)) > math.log1p(threshold):
            yield Step(series, series.commits[stop - 1], series.commits[start], before, after, start, end)


def unmended(found: Sequence[Step], threshold: float) -> bool:
    """Whether a series is now worse, by more than `threshold`, than the best level it has had."""
    if not found:
        return False
    best = min(min(step.before, step.after) for step in found)
    return found[-1].after > best * (1 + threshold)


def _named(key: str, parameters: Sequence[str]) -> str:
    texts = [re.sub(r"^'(.*)'$", r"\1", text) for text in parameters]
    return f"{key}({', '.join(texts)})" if texts else key


def _ordered(machine: str, name: str, points: list[tuple[int, str, float]]) -> Series:
    points.sort(key=lambda point: point[0])
    return Series(machine, name, tuple(p[1] for p in points), tuple(p[2] for p in points))


def _wanted(series: Series, patterns: Sequence[str], machine: str) -> bool:
    named = not patterns or any(fnmatch.fnmatch(series.name, pattern) for pattern in patterns)
    return named and machine in ("", series.machine)
