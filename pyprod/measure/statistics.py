"""What the raw samples say: percentiles, ratios, accuracy differences, with the interval each deserves.

Every function is pure and deterministic (the bootstrap is seeded). A NaN in the input is a NaN in the answer:
nothing is dropped to make a number come out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pyprod.types import Evaluation, Measurement, PyprodError

Array = NDArray[np.float64]

CONFIDENCE = 0.95
#: Fewer common rounds than this give no interval: with two, the t quantile is 12.7 and the interval says nothing.
MIN_ROUNDS = 3
#: Share of rounds cut from each end before the log-ratios are averaged.
TRIM = 0.2
#: The Monte Carlo error of a 2.5% quantile is then about 0.5% in probability.
RESAMPLES = 1000
#: The same candidate twice may differ by this much before the whole cohort loses our trust.
AA_LIMITS = (0.97, 1.03)
#: Weights are made for this many values at once: 32 MB of doubles.
_CHUNK = 4_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95% interval; `low` and `high` are NaN when there is too little data for one.

    Attributes:
        value: point estimate.
        low, high: ends of the interval.
        n: how many independent observations (rounds, examples) it rests on.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Discordant:
    """Examples on which exactly one of two forms is right, and McNemar's exact two-sided p for "as many each way"."""

    lost: int
    won: int
    p: float


def percentiles(samples: Sequence[float] | Array, at: Sequence[float] = (50, 90, 99)) -> tuple[float, ...]:
    """Percentiles of pooled samples, linearly interpolated; NaN for each when there is no sample."""
    if not len(samples):
        return tuple(float("nan") for _ in at)
    return tuple(float(p) for p in np.percentile(np.asarray(samples, dtype=float), at))


def ratio(
    numerator: Mapping[int, float], denominator: Mapping[int, float], common: Mapping[int, float] | None = None
) -> Estimate:
    """Ratio of two forms' latencies from one value per round each, paired by round, with its 95% interval.

    Pairing removes the drift that hits both alike. The logarithms of the per-round ratios are averaged by a 20%
    trimmed mean, and the interval is the t interval with the winsorized standard error (Yuen 1974). A plain mean
    would let one disturbed round of a shared machine move the estimate; rank intervals (Wilcoxon, sign) can't reach
    95% below six rounds. Below five rounds nothing is trimmed: the plain t interval.

    Args:
        numerator, denominator: by round, a positive number (a median latency). Rounds that only one of them has
            are left out; `Estimate.n` counts the others.
        common: a form that was measured beside both, such as the baseline. Forms that share too few rounds, as where
            all together did not fit into memory, are each paired with it, and their errors add up.
    """
    mean, rounds = _paired(numerator, denominator)
    if rounds < MIN_ROUNDS and common is not None:
        (first, of_first), (second, of_second) = _paired(numerator, common), _paired(denominator, common)
        if min(of_first, of_second) >= MIN_ROUNDS:
            error = float(np.hypot(first.error, second.error))
            mean = Mean(first.center - second.center, error, min(first.freedom, second.freedom))
            rounds = min(of_first, of_second)
    low, value, high = np.exp([mean.bound((1 - CONFIDENCE) / 2), mean.center, mean.bound((1 + CONFIDENCE) / 2)])
    return Estimate(float(value), float(low), float(high), rounds)


def _paired(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> tuple[Mean, int]:
    """Of the logarithms of the ratios, and how many rounds have both."""
    rounds = sorted(numerator.keys() & denominator.keys())
    return trimmed_mean(np.log([numerator[r] / denominator[r] for r in rounds]), TRIM), len(rounds)


@dataclass(frozen=True, slots=True)
class Mean:
    """A trimmed mean and what is known of its error.

    Attributes:
        error: standard error; NaN below `MIN_ROUNDS` values.
        freedom: degrees of freedom of that error.
    """

    center: float
    error: float
    freedom: int

    def bound(self, probability: float) -> float:
        """What lies above the true mean with this probability, by Student's t; 0.975: the end of a 95% interval."""
        if np.isnan(self.error):
            return float("nan")
        return self.center + float(stats.t.ppf(probability, self.freedom)) * self.error


def trimmed_mean(values: Sequence[float] | Array, trim: float) -> Mean:
    """Mean without the share `trim` of the values at each end, with the winsorized standard error (Yuen 1974).

    NaN when a value is NaN.
    """
    x = np.sort(np.asarray(values, dtype=float))  # a NaN comes last
    n, cut = len(x), int(trim * len(x))
    if not n or np.isnan(x[-1]):
        return Mean(float("nan"), float("nan"), 0)
    kept = n - 2 * cut
    center = float(x[cut : n - cut].mean())
    if n < MIN_ROUNDS:
        return Mean(center, float("nan"), 0)
    winsorized = np.clip(x, x[cut], x[n - cut - 1])
    return Mean(center, float(winsorized.std(ddof=1) * np.sqrt((n - 1) / (kept * (kept - 1)))), kept - 1)


def geometric_mean(estimates: Sequence[Estimate]) -> Estimate:
    """Geometric mean of ratios measured apart from each other, with the 95% interval that their own intervals give.

    The errors of the logarithms are taken as independent, so their half-widths add as squares. It says how well these
    ratios are known, not what other problems would give: the problems are no random sample of anything.

    Returns:
        An estimate whose `n` counts the ratios. NaN without any; no interval when one of them has none.
    """
    nan = float("nan")
    if not estimates:
        return Estimate(nan, nan, nan, 0)
    logs = np.log([[e.value, e.low, e.high] for e in estimates])
    center = logs[:, 0].mean()
    half = np.sqrt((((logs[:, 2] - logs[:, 1]) / 2) ** 2).sum()) / len(estimates)
    low, value, high = np.exp([center - half, center, center + half])
    return Estimate(float(value), float(low), float(high), len(estimates))


def trustworthy(aa_ratio: float) -> bool:
    """Whether the A/A pair agrees: False outside 0.97–1.03, and for NaN."""
    return AA_LIMITS[0] <= aa_ratio <= AA_LIMITS[1]


def evaluation(accuracy: Measurement) -> Evaluation:
    """What a measurement of the metric "accuracy" holds."""
    context = accuracy.context
    return Evaluation(
        context["statistic"], accuracy.samples, tuple(context.get("truth", ())), tuple(context.get("cluster", ()))
    )


def score(evaluation: Evaluation) -> float:
    """The metric of one form: the obvious computation. NaN when a value is NaN or the statistic is undefined.

    Raises:
        PyprodError: `truth` is missing or of another length than `values`.
    """
    values, truth = _arrays(evaluation)
    if not len(values) or np.isnan(values).any() or np.isnan(truth).any():
        return float("nan")
    match evaluation.statistic:
        case "mean":
            return float(values.mean())
        case "perplexity":
            return float(np.exp(values.mean()))
        case "spearman":
            return _pearson(stats.rankdata(values), stats.rankdata(truth))
        case "pearson":
            return _pearson(values, truth)
        case "roc_auc":
            positive = truth > 0.5
            p, n = int(positive.sum()), int((~positive).sum())
            if not p or not n:
                return float("nan")
            return float((stats.rankdata(values)[positive].sum() - p * (p + 1) / 2) / (p * n))


def bootstrap(evaluation: Evaluation, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """The metric on `resamples` draws, with replacement, of the independent units: examples, or clusters if given.

    Two evaluations of the same examples get the same draws for the same seed: their difference is paired. A value
    of a pair of units ``(i, j)`` enters as often as the draws of both allow, count_i * count_j times (the vertex
    bootstrap, Snijders & Borgatti 1999).

    Returns:
        float64 ``[resamples]``, read-only; NaN for a draw on which the statistic is undefined.
    """
    units = tuple(tuple(unit) if isinstance(unit, Sequence) else unit for unit in evaluation.cluster)
    frozen = Evaluation(evaluation.statistic, tuple(evaluation.values), tuple(evaluation.truth), units)  # type: ignore[arg-type]
    return _bootstrap(frozen, resamples, seed)


@functools.lru_cache(maxsize=256)  # each format of a report asks for the same: 1 s a form at 10,000 examples
def _bootstrap(evaluation: Evaluation, resamples: int, seed: int) -> Array:
    values, truth = _arrays(evaluation)
    if not len(values) or np.isnan(values).any() or np.isnan(truth).any():
        draws = np.full(resamples, np.nan)
    else:
        weighted = _Weighted(evaluation.statistic, values, truth)
        with np.errstate(invalid="ignore", divide="ignore"):  # an undefined draw is the NaN we promise
            draws = np.concatenate([weighted(w) for w in _weights(evaluation, resamples, seed)])
    draws.flags.writeable = False
    return draws


def accuracy_difference(candidate: Evaluation, baseline: Evaluation, seed: int = 0) -> Estimate:
    """Candidate minus baseline on the same examples, with the paired percentile bootstrap interval.

    Raises:
        PyprodError: the two were not scored on the same examples.
    """
    same = (
        candidate.statistic == baseline.statistic
        and len(candidate.values) == len(baseline.values)
        and np.array_equal(candidate.truth, baseline.truth, equal_nan=True)
        and np.array_equal(candidate.cluster, baseline.cluster)
    )
    if not same:
        raise PyprodError("accuracies can't be compared: not scored on the same examples; measure both in one run")
    draws = bootstrap(candidate, seed=seed) - bootstrap(baseline, seed=seed)
    low, high = percentiles(draws, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)))
    return Estimate(score(candidate) - score(baseline), low, high, len(candidate.values))


def discordant(candidate: Evaluation, baseline: Evaluation) -> Discordant | None:
    """Discordant pairs of two forms scored 0 or 1 on the same examples; None for any other kind of score."""
    a, b = np.asarray(candidate.values, dtype=float), np.asarray(baseline.values, dtype=float)
    if candidate.statistic != "mean" or a.shape != b.shape or not np.isin([a, b], (0.0, 1.0)).all():
        return None
    lost, won = int(((b == 1) & (a == 0)).sum()), int(((b == 0) & (a == 1)).sum())
    p = float(stats.binomtest(lost, lost + won, 0.5).pvalue) if lost + won else 1.0
    return Discordant(lost, won, p)


def pareto_front(costs: Array) -> NDArray[np.bool_]:
    """Which points no other point beats: as good in every column and better in one. Smaller is better.

    Args:
        costs: float ``[n, k]``. A point with a NaN is never on the front and beats nobody.

    Returns:
        bool ``[n]``.
    """
    no_worse = (costs[:, None, :] <= costs[None, :, :]).all(axis=2)
    better = (costs[:, None, :] < costs[None, :, :]).any(axis=2)
    beaten = np.asarray((no_worse & better).any(axis=0))
    return ~beaten & ~np.isnan(costs).any(axis=1)


def _arrays(evaluation: Evaluation) -> tuple[Array, Array]:
    values, truth = np.asarray(evaluation.values, dtype=float), np.asarray(evaluation.truth, dtype=float)
    needs_truth = evaluation.statistic not in ("mean", "perplexity")
    if needs_truth and len(truth) != len(values):
        raise PyprodError(f"{evaluation.statistic} needs a truth for each of {len(values)} values, got {len(truth)}")
    return values, truth


def _pearson(x: Array, y: Array) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else float("nan")


def _weights(evaluation: Evaluation, resamples: int, seed: int) -> Iterator[Array]:
    """How often each value enters each draw: chunks ``[some, n]`` of `resamples` rows in all."""
    n = len(evaluation.values)
    units = np.asarray(evaluation.cluster) if len(evaluation.cluster) else np.arange(n)
    if len(units) != n:
        raise PyprodError(f"an evaluation of {n} values names {len(units)} clusters")
    names, index = np.unique(units, return_inverse=True)
    index, size = index.reshape(units.shape), len(names)
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // max(n, size))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draws = generator.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * size).reshape(rows, size).astype(float)
        if index.ndim == 2:
            yield counts[:, index[:, 0]] * counts[:, index[:, 1]]
        else:
            yield counts[:, index] if len(evaluation.cluster) else counts


class _Weighted:
    """A statistic of values that each count `weight` times: `score` of repeated values, without repeating them."""

    def __init__(self, statistic: str, values: Array, truth: Array) -> None:
        self.statistic, self.values, self.truth = statistic, values, truth
        if statistic in ("spearman", "roc_auc"):  # the order is the same for every draw: sort once
            self.value_groups = np.unique(values, return_inverse=True)[1]
            self.truth_groups = np.unique(truth, return_inverse=True)[1]

    def __call__(self, weights: Array) -> Array:
        """Weights ``[rows, n]`` -> the statistic ``[rows]``."""
        match self.statistic:
            case "mean":
                return np.asarray(weights @ self.values / weights.sum(1))
            case "perplexity":
                return np.asarray(np.exp(weights @ self.values / weights.sum(1)))
            case "pearson":
                return _weighted_pearson(weights, self.values, self.truth)
            case "spearman":
                x, y = (_weighted_ranks(weights, groups) for groups in (self.value_groups, self.truth_groups))
                return _weighted_pearson(weights, x, y)
            case _:
                positive = self.truth > 0.5
                ranks = _weighted_ranks(weights, self.value_groups)
                p, n = weights[:, positive].sum(1), weights[:, ~positive].sum(1)
                return np.asarray(((weights * ranks)[:, positive].sum(1) - p * (p + 1) / 2) / (p * n))


def _weighted_ranks(weights: Array, groups: NDArray[np.intp]) -> Array:
    """Mid-ranks ``[rows, n]`` among values repeated `weights` times; `groups` numbers equal values in order."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    totals = np.add.reduceat(weights[:, order], starts, axis=1)
    return np.asarray((np.cumsum(totals, axis=1) - totals / 2 + 0.5)[:, groups])


def _weighted_pearson(weights: Array, x: Array, y: Array) -> Array:
    total = weights.sum(1, keepdims=True)
    x = x - (weights * x).sum(1, keepdims=True) / total
    y = y - (weights * y).sum(1, keepdims=True) / total
    wx = weights * x
    return np.asarray((wx * y).sum(1) / np.sqrt((wx * x).sum(1) * (weights * y * y).sum(1)))
