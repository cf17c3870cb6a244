"""Verdicts: what they rest on, and how often they err, counted on noise of known size."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from pyprod.measure.decide import Decision, Rule, Verdict, decide, share
from pyprod.types import PyprodError

RUNS = 800
#: For rates that must be told from others near them: the standard error is half a percent.
MANY = 3200
LIMIT = math.log1p(0.02)


def noise(kind: str, size: int) -> np.ndarray:
    """Of standard deviation near 1."""
    if kind == "normal":
        return np.random.standard_normal(size)
    if kind == "heavy":
        return np.random.standard_t(3, size) / 1.7
    return np.random.standard_normal(size) * np.where(np.random.random(size) < 0.1, 5, 1) / 1.8  # "disturbed"


def sequence(slowdown: float, sd: float, pairs: int, kind: str, rows: int = 1) -> Decision:
    """A gate on one row: looks at four fractions of its pairs, until it is decided."""
    rule, before = Rule(), 0.0
    logs = math.log1p(slowdown) + sd * noise(kind, pairs)
    for now in rule.looks:
        decision = decide(logs[: max(rule.min_pairs, round(now * pairs))].tolist(), rule, rows, share(before, now))
        before = now
        if decision.verdict is not Verdict.UNDECIDED:
            break
    return decision


def count(wanted: Verdict, *arguments: object, rows: int = 1) -> int:
    return sum(sequence(*arguments, rows=rows).verdict is wanted for _ in range(RUNS))  # type: ignore[arg-type]


def at_most(hits: int, risk: float) -> bool:
    """Whether `hits` in RUNS does not refute "no more often than risk", at one in 10,000."""
    return bool(stats.binom.sf(hits - 1, RUNS, risk) > 1e-4)


@pytest.mark.parametrize("kind", ["normal", "heavy", "disturbed"])
def test_risks_hold_at_the_tolerance_itself(kind: str) -> None:
    decisions = [sequence(0.02, 0.01, 16, kind).verdict for _ in range(RUNS)]
    assert at_most(decisions.count(Verdict.PASS), 0.05)


@pytest.mark.parametrize("sd", [0.01, 0.1])
@pytest.mark.parametrize("kind", ["normal", "heavy", "disturbed"])
def test_risk_of_a_false_alarm_holds_without_a_slowdown(kind: str, sd: float) -> None:
    """However noisy: what is estimated above the tolerance must be shown to be slower as well."""
    assert at_most(count(Verdict.FAIL, 0.0, sd, 16, kind), 0.01)
    assert at_most(count(Verdict.FAIL, -0.02, sd, 16, kind), 0.01)


def test_what_is_slower_within_the_tolerance_does_not_fail() -> None:
    assert count(Verdict.FAIL, 0.01, 0.005, 16, "disturbed", rows=20) == 0


def test_power() -> None:
    assert count(Verdict.FAIL, 0.03, 0.010, 16, "normal", rows=20) > 0.95 * RUNS
    assert count(Verdict.FAIL, 0.05, 0.015, 16, "normal", rows=20) > 0.99 * RUNS
    assert count(Verdict.PASS, 0.0, 0.010, 16, "normal", rows=20) > 0.95 * RUNS


@pytest.mark.parametrize("kind", ["normal", "heavy", "disturbed"])
@pytest.mark.parametrize("slowdown", [0.0, 0.03])
def test_intervals_cover_the_truth(kind: str, slowdown: float) -> None:
    """93% to 97% is the goal; 0.5% more above is what so many runs can't tell from it."""
    found = [sequence(slowdown, 0.008, 16, kind).ratio for _ in range(MANY)]
    covered = sum(r.low <= 1 + slowdown <= r.high for r in found)
    assert 0.93 * MANY < covered < 0.975 * MANY


@pytest.mark.parametrize("sd", [0.004, 0.03])
def test_detectable_is_what_fails_nine_times_in_ten(sd: float) -> None:
    """Held up by the tolerance, and by the noise."""
    rule, pairs = Rule(), 16
    detectable = np.mean(
        [decide((sd * noise("normal", pairs)).tolist(), rule, 20, 0.4).detectable for _ in range(RUNS)]
    )
    hits = sum(
        decide((math.log1p(float(detectable)) + sd * noise("normal", pairs)).tolist(), rule, 20, 0.4).verdict
        is Verdict.FAIL
        for _ in range(MANY)
    )
    assert 0.85 * MANY < hits < 0.95 * MANY


def test_shares_add_up() -> None:
    ends = [0.0, 0.1, 0.37, 0.8, 1.0]
    assert sum(share(a, b) for a, b in itertools.pairwise(ends)) == pytest.approx(1)


@pytest.mark.parametrize("logs", [[], [0.0], [0.3] * 4, [0.3, math.nan, 0.3, 0.3, 0.3, 0.3, 0.3]])
def test_too_little_or_no_number_is_undecided(logs: list[float]) -> None:
    assert decide(logs, Rule(), 1, 1.0).verdict is Verdict.UNDECIDED


def test_without_noise() -> None:
    assert decide([LIMIT + 1e-9] * 5, Rule(), 100, 0.1).verdict is Verdict.FAIL
    assert decide([LIMIT - 1e-9] * 5, Rule(), 100, 0.1).verdict is Verdict.PASS


def test_faster_is_said_but_passes() -> None:
    decision = decide([-0.05, -0.051, -0.049, -0.05, -0.0505], Rule(), 1, 1.0)
    assert decision.verdict is Verdict.PASS
    assert decision.faster
    assert decision.ratio.value == pytest.approx(math.exp(-0.05), rel=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tolerance": 0},
        {"tolerance": 2},
        {"alpha": 0},
        {"beta": 0.7},
        {"looks": (0.5,)},
        {"looks": ()},
        {"looks": (1, 0.5)},
    ],
)
def test_a_senseless_rule_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PyprodError):
        Rule(**wrong)  # type: ignore[arg-type]
