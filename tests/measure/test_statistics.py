"""The statistics against independent computations: scipy, brute force, and how often the intervals hold the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from pyprod.measure import statistics
from pyprod.types import Evaluation, PyprodError

STATISTICS = ["mean", "spearman", "pearson", "roc_auc", "perplexity"]


def evaluation(statistic, n, seed, cluster=()):
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=n).round(1)  # rounding makes ties
    values = (signal + rng.normal(size=n)).round(1)
    match statistic:
        case "mean":
            return Evaluation("mean", tuple((values > 0).astype(float)), (), cluster)
        case "perplexity":
            return Evaluation("perplexity", tuple(np.abs(values)), (), cluster)
        case "roc_auc":
            return Evaluation("roc_auc", tuple(values), tuple((signal > 0).astype(float)), cluster)
    return Evaluation(statistic, tuple(values), tuple(signal), cluster)


def brute_score(statistic, values, truth):
    match statistic:
        case "mean":
            return sum(values) / len(values)
        case "perplexity":
            return np.prod([np.exp(v / len(values)) for v in values])
        case "spearman":
            return stats.spearmanr(values, truth).statistic
        case "pearson":
            return stats.pearsonr(values, truth).statistic
    good, bad = ([v for v, t in zip(values, truth, strict=True) if t == label] for label in (1.0, 0.0))
    pairs = [(v > w) + 0.5 * (v == w) for v in good for w in bad]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("n", [7, 64])
def test_score_is_the_textbook_value(statistic, n):
    e = evaluation(statistic, n, seed=n)
    assert statistics.score(e) == pytest.approx(brute_score(statistic, e.values, e.truth), rel=1e-12)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_nan_and_nothing_score_nan(statistic):
    e = evaluation(statistic, 9, seed=1)
    broken = Evaluation(statistic, (float("nan"), *e.values[1:]), e.truth)
    assert np.isnan(statistics.score(broken))
    assert np.isnan(statistics.bootstrap(broken, resamples=3)).all()
    assert np.isnan(statistics.score(Evaluation(statistic, ())))
    difference = statistics.accuracy_difference(broken, e)
    assert np.isnan([difference.value, difference.low, difference.high]).all()


def test_undefined_statistics_are_nan():
    assert np.isnan(statistics.score(Evaluation("roc_auc", (1.0, 2.0), (1.0, 1.0))))
    assert np.isnan(statistics.score(Evaluation("spearman", (2.0, 2.0), (0.0, 1.0))))


def test_truth_of_another_length_is_refused():
    with pytest.raises(PyprodError, match="needs a truth for each of 2 values, got 1"):
        statistics.score(Evaluation("spearman", (1.0, 2.0), (1.0,)))


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("cluster", ["none", "unit", "pair"])
def test_bootstrap_is_the_score_of_repeated_values(statistic, cluster):
    """The fast weighted statistic against its slow twin: repeat each value as often as the draw says, then score."""
    pairs = tuple(itertools.combinations(range(8), 2))
    units = {"none": (), "unit": tuple(i // 4 for i in range(len(pairs))), "pair": pairs}[cluster]
    e = evaluation(statistic, len(pairs), seed=5, cluster=units)
    draws = statistics.bootstrap(e, resamples=20, seed=3)
    (weights,) = statistics._weights(e, 20, seed=3)
    for draw, weight in zip(draws, weights.astype(int), strict=True):
        repeated = [np.repeat(a, weight) if len(a) else () for a in (e.values, e.truth)]
        assert draw == pytest.approx(statistics.score(Evaluation(statistic, *repeated)), rel=1e-9, nan_ok=True)


def test_weights_draw_whole_units_with_replacement():
    units = tuple(np.random.default_rng(0).integers(0, 5, 40))
    (weights,) = statistics._weights(evaluation("mean", 40, 0, cluster=units), 50, seed=0)
    for unit in set(units):
        columns = weights[:, np.array(units) == unit]
        assert (columns == columns[:, :1]).all()
    plain = np.concatenate(list(statistics._weights(evaluation("mean", 40, 0), 50, seed=0)))
    assert (plain.sum(1) == 40).all()


def test_draws_do_not_depend_on_the_chunk(monkeypatch):
    e = evaluation("spearman", 30, seed=2)
    whole = statistics.bootstrap(e, resamples=50)
    monkeypatch.setattr(statistics, "_CHUNK", 100)
    statistics._bootstrap.cache_clear()
    again = statistics.bootstrap(e, resamples=50)
    assert again is not whole
    assert np.array_equal(whole, again)
    assert not whole.flags.writeable


def test_sequences_of_any_kind_are_the_same_evaluation():
    pairs = list(itertools.combinations(range(5), 2))
    e = evaluation("pearson", len(pairs), seed=2, cluster=tuple(pairs))
    lists = Evaluation("pearson", list(e.values), list(e.truth), [list(pair) for pair in pairs])
    assert np.array_equal(statistics.bootstrap(e, 9), statistics.bootstrap(lists, 9), equal_nan=True)


def test_accuracy_difference_agrees_with_scipy_bootstrap():
    base, other = evaluation("pearson", 200, seed=1), evaluation("pearson", 200, seed=2)
    other = Evaluation("pearson", tuple(np.array(base.values) + 0.3 * np.array(other.values)), base.truth)
    ours = statistics.accuracy_difference(other, base)

    def difference(a, b, t):
        return stats.pearsonr(a, t).statistic - stats.pearsonr(b, t).statistic

    theirs = stats.bootstrap(
        (other.values, base.values, base.truth), difference, paired=True, vectorized=False,
        n_resamples=2000, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    spread = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.1 * spread
    assert abs(ours.high - theirs.high) < 0.1 * spread
    assert ours.value == pytest.approx(difference(other.values, base.values, base.truth), rel=1e-9)
    assert statistics.accuracy_difference(other, base) == ours


def test_difference_of_a_form_to_itself_is_zero():
    e = evaluation("spearman", 50, seed=1)
    assert statistics.accuracy_difference(e, e) == statistics.Estimate(0.0, 0.0, 0.0, 50)


def test_other_examples_are_not_compared():
    with pytest.raises(PyprodError, match="not scored on the same examples"):
        statistics.accuracy_difference(evaluation("pearson", 9, 1), evaluation("pearson", 9, 2))


def test_accuracy_interval_covers_the_true_difference():
    """Two classifiers, right with 0.80 and 0.78 on correlated examples: 95% within four standard errors."""
    rng, hits, trials = np.random.default_rng(0), 0, 250
    for _ in range(trials):
        u = rng.random((2, 250))
        base = u[0] < 0.8
        other = np.where(u[1] < 0.9, base & (u[0] < 0.78), u[0] * 7 % 1 < 0.78)
        estimate = statistics.accuracy_difference(
            Evaluation("mean", tuple(other.astype(float))), Evaluation("mean", tuple(base.astype(float)))
        )
        hits += estimate.low <= -0.02 <= estimate.high
    assert 0.90 < hits / trials < 0.995


def test_cluster_bootstrap_covers_where_the_plain_one_does_not():
    """Forty clusters of ten equal values: treating them as 400 independent examples is far too sure."""
    rng, trials = np.random.default_rng(1), 200
    cluster, hits = tuple(np.repeat(range(40), 10)), {True: 0, False: 0}
    for _ in range(trials):
        values = tuple(np.repeat(rng.normal(size=40), 10))
        for clustered in hits:
            draws = statistics.bootstrap(Evaluation("mean", values, (), cluster if clustered else ()), resamples=300)
            low, high = statistics.percentiles(draws, (2.5, 97.5))
            hits[clustered] += low <= 0 <= high
    assert hits[True] / trials > 0.89
    assert hits[False] / trials < 0.60


def test_discordant_pairs_and_mcnemar():
    base = Evaluation("mean", (1, 1, 1, 1, 1, 0, 0, 0))
    other = Evaluation("mean", (1, 0, 0, 0, 0, 1, 0, 0))
    found = statistics.discordant(other, base)
    assert (found.lost, found.won) == (4, 1)
    assert found.p == pytest.approx(2 * (1 + 5) / 2**5)  # two-sided: P(at most 1 of 5 heads), doubled
    assert statistics.discordant(base, base) == statistics.Discordant(0, 0, 1.0)
    assert statistics.discordant(Evaluation("mean", (0.5, 1.0)), Evaluation("mean", (1.0, 1.0))) is None
    nan = Evaluation("mean", (float("nan"), 1.0))
    assert statistics.discordant(nan, nan) is None


def test_percentiles_interpolate_and_propagate_nan():
    assert statistics.percentiles(range(101)) == (50.0, 90.0, 99.0)
    assert np.isnan(statistics.percentiles([1.0, float("nan")])).all()
    assert np.isnan(statistics.percentiles([])).all()


def by_round(values):
    return dict(enumerate(values))


@pytest.mark.parametrize("n", [3, 4])
def test_ratio_of_few_rounds_is_the_t_interval(n):
    logs = np.random.default_rng(n).normal(size=n)
    found = statistics.ratio(by_round(np.exp(logs)), by_round(np.ones(n)))
    expected = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert np.log([found.low, found.high]) == pytest.approx([expected.low, expected.high])


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")  # the second sample is constant on purpose
@pytest.mark.parametrize("n", [5, 12, 31])
def test_ratio_is_the_yuen_interval_of_scipy(n):
    """scipy has Yuen's test for two samples; with the second one constant it is the one-sample test."""
    rng = np.random.default_rng(n)
    a, b = rng.lognormal(size=n), rng.lognormal(size=n)
    found = statistics.ratio(by_round(a), by_round(b))
    assert np.log(found.value) == pytest.approx(stats.trim_mean(np.log(a / b), 0.2))
    for end in (found.low, found.high):
        test = stats.ttest_ind(np.log(a / b), np.full(n, np.log(end)), equal_var=False, trim=0.2)
        assert test.pvalue == pytest.approx(0.05)
    assert found.n == n


@pytest.mark.parametrize("noise", ["normal", "disturbed"])
@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_ratio_interval_covers_the_truth(noise, n):
    """Drift hits both alike; in "disturbed", one round in ten takes up to twice as long for one of the two."""
    rng, hits, trials = np.random.default_rng(n), 0, 1000
    for _ in range(trials):
        drift = rng.lognormal(sigma=0.3, size=n)
        times = [drift * rng.lognormal(sigma=0.02, size=n) for _ in range(2)]
        if noise == "disturbed":
            times = [t * np.where(rng.random(n) < 0.1, rng.uniform(1, 2, n), 1) for t in times]
        found = statistics.ratio(by_round(2.0 * times[0]), by_round(times[1]))
        hits += found.low <= 2.0 <= found.high
    assert hits / trials > 0.93


def test_one_disturbed_round_does_not_move_the_ratio():
    quiet = np.full(10, 2.0)
    disturbed = np.where(np.arange(10) == 4, 20.0, 2.0)
    assert statistics.ratio(by_round(disturbed), by_round(quiet)).value == 1.0


def test_fewer_than_three_common_rounds_give_no_interval():
    found = statistics.ratio({0: 2.0, 1: 2.0, 2: 9.0}, {0: 1.0, 1: 1.0, 3: 1.0})
    assert (found.value, found.n) == (pytest.approx(2.0), 2)
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(statistics.ratio({0: 1.0}, {1: 1.0}).value)


def test_forms_of_different_rounds_are_compared_by_what_was_beside_both():
    """The interval is a little wide: of 2,000 draws it missed the truth, 1.05, in 2.9%; here are 400."""
    missed, rng = 0, np.random.default_rng(np.random.randint(1 << 30))
    for _ in range(400):
        drift = rng.normal(0, 0.3, 20)
        form = {r: float(np.exp(drift[r] + rng.normal(0, 0.05))) for r in range(20)}
        first = {r: 1.05 * float(np.exp(drift[r] + rng.normal(0, 0.05))) for r in range(10)}
        second = {r: float(np.exp(drift[r] + rng.normal(0, 0.05))) for r in range(10, 20)}
        found = statistics.ratio(first, second, form)
        assert found.n == 10
        missed += not found.low <= 1.05 <= found.high
    assert missed <= 30
    assert np.isnan(statistics.ratio(first, second).value)
    assert np.isnan(statistics.ratio(first, second, {0: 1.0, 10: 1.0}).value)
    beside = dict.fromkeys(range(10), 1.0)
    assert statistics.ratio(first, beside, form) == statistics.ratio(first, beside)


def test_a_nan_round_makes_the_ratio_nan():
    found = statistics.ratio(by_round([1.0, float("nan"), 1.0, 1.0, 1.0, 1.0]), by_round([1.0] * 6))
    assert np.isnan([found.value, found.low, found.high]).all()


@pytest.mark.parametrize(("ratio", "verdict"), [(0.97, True), (1.03, True), (0.969, False), (1.031, False)])
def test_aa_limits(ratio, verdict):
    assert statistics.trustworthy(ratio) is verdict
    assert statistics.trustworthy(float("nan")) is False


def test_pareto_front_against_brute_force():
    costs = np.random.default_rng(0).integers(0, 5, size=(60, 3)).astype(float)
    costs[7, 1] = np.nan

    def beaten(p):
        return any((q <= p).all() and (q < p).any() for q in costs)

    expected = [not beaten(p) and not np.isnan(p).any() for p in costs]
    assert statistics.pareto_front(costs).tolist() == expected
    assert 0 < sum(expected) < 60
