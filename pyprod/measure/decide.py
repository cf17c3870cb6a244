"""Slower or not: a verdict from paired measurements, or none yet. Pure functions; docs/gate.md says why they are so.

What is decided upon are logarithms of ratios, HEAD over BASE, one per *pair* of fresh processes: addresses, page colors
and thread placement are drawn anew with each process, so that a process is the unit that repeats, not a call.

A row FAILS when it is shown to be slower at all and the best estimate is above the tolerance, and PASSES when it is
shown to be within the tolerance. Both are one-sided bounds of a trimmed mean. (If a slowdown had to be shown to exceed
the tolerance, one of 3% would stay undecided under a tolerance of 2% unless it is known to 1%.) Looking several times
is paid for in advance: each look has its own share of the risk, the shares add up to the whole, so that by the union
bound the risk holds whatever the looks have in common.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import optimize, stats

from pyprod.measure.statistics import CONFIDENCE, Estimate, trimmed_mean
from pyprod.types import PyprodError

#: Share of pairs cut from each end. Simulated (docs/gate.md): 0 loses power to one disturbed pair in ten, 0.2 loses it
#: to fewer degrees of freedom and covers 92% where 95% is said.
TRIM = 0.1
#: Power at which `Decision.detectable` is stated.
POWER = 0.9


class Verdict(StrEnum):
    """What a row, or the suite, comes to."""

    PASS = "PASS"
    FAIL = "FAIL"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True, slots=True)
class Rule:
    """When to call a row slower. Frozen before anything is measured, and stored with the evidence.

    Attributes:
        tolerance: the slowdown that is allowed: 0.02 is 2%.
        alpha: probability that any row of a suite fails that is not slower at all.
        beta: probability that a row passes whose true slowdown is the tolerance or more.
        looks: at which fractions of the budget a decision is tried; rising, the last is 1.
        min_pairs: no decision on fewer pairs.
    """

    tolerance: float = 0.02
    alpha: float = 0.01
    beta: float = 0.05
    looks: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    min_pairs: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise PyprodError(f"the tolerance is a share between 0 and 1 (2% is 0.02), not {self.tolerance:g}")
        if not (0 < self.alpha < 0.5 and 0 < self.beta < 0.5):
            raise PyprodError(f"alpha and beta are risks between 0 and 0.5, not {self.alpha:g} and {self.beta:g}")
        if self.looks != tuple(sorted(set(self.looks))) or not self.looks or self.looks[-1] != 1 or self.looks[0] <= 0:
            raise PyprodError(f"looks are rising fractions of the budget that end with 1, not {self.looks}")


@dataclass(frozen=True, slots=True)
class Decision:
    """What is known of one row at one look.

    Attributes:
        verdict: UNDECIDED while neither bound is reached.
        ratio: HEAD over BASE with its plain 95% interval; above 1 is slower.
        detectable: the least slowdown that would FAIL with a probability of 90% on as many pairs with this noise.
        noise: standard deviation of a pair's log-ratio: 0.01 is 1%.
        faster: whether it is shown to be faster, and the best estimate is by more than the tolerance.
    """

    verdict: Verdict
    ratio: Estimate
    detectable: float
    noise: float
    faster: bool


def share(before: float, now: float) -> float:
    """Of both risks, what a look may spend at fraction `now` of the budget, the last one having been at `before` or 0.

    The square's growth: shares add up to 1 whichever looks are taken, and the late looks, with most data, have most.
    """
    return now**2 - before**2


@functools.cache
def _shift(freedom: int, risk: float) -> float:
    """How many standard errors off a mean must be for a test of this risk to tell with `POWER`; NaN without freedom.

    The noncentrality at which Student's t exceeds its own quantile so often. (The sum of the two quantiles, the
    usual shortcut, gave 85% for 90% on 16 pairs.)
    """
    if freedom < 1:
        return math.nan
    limit = float(stats.t.isf(risk, freedom))
    return float(optimize.brentq(lambda shift: stats.nct.sf(limit, freedom, shift) - POWER, 0.0, 4 * limit + 10))


def decide(logs: Sequence[float], rule: Rule, rows: float, share: float) -> Decision:
    """Judge one row.

    Args:
        logs: natural logarithm of HEAD over BASE, one per pair; larger is worse.
        rows: how many rows `Rule.alpha` is shared among (Bonferroni).
        share: of both risks, what this look may spend.

    Returns:
        UNDECIDED on fewer than `Rule.min_pairs` pairs, and with a NaN among `logs`.
    """
    mean = trimmed_mean(logs, TRIM)
    limit = math.log1p(rule.tolerance)
    fail_risk, pass_risk = rule.alpha / rows * share, rule.beta * share
    verdict, faster = Verdict.UNDECIDED, False
    if len(logs) >= rule.min_pairs:
        if mean.bound(fail_risk) > 0 and mean.center > limit:
            verdict = Verdict.FAIL
        elif mean.bound(1 - pass_risk) < limit:
            verdict = Verdict.PASS
        faster = mean.bound(1 - fail_risk) < 0 and mean.center < -limit
    ends = [mean.center, mean.bound((1 - CONFIDENCE) / 2), mean.bound((1 + CONFIDENCE) / 2)]
    value, low, high = (math.exp(end) for end in ends)
    # whichever is harder: to be shown slower, or to be estimated above the tolerance
    reach = max(_shift(mean.freedom, fail_risk) * mean.error, limit + mean.bound(POWER) - mean.center)
    noise = float(np.std(logs, ddof=1)) if len(logs) > 1 else math.nan
    return Decision(verdict, Estimate(value, low, high, len(logs)), math.expm1(reach), noise, faster)
