"""Ranges of activations for static scales, from rows of real data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyprod.nn import Range, minmax, watch
from pyprod.types import PyprodError

Observer = Literal["minmax", "percentile", "mse", "entropy"]
OBSERVERS: tuple[Observer, ...] = get_args(Observer)

#: Values outside of this share in the middle are clipped by "percentile".
PERCENTILE = 0.9999
BINS = 2048
#: Ranges that "mse" and "entropy" try: shares of the whole one.
SHARES = np.linspace(0.1, 1.0, 91)
_LEVELS = 256

Histogram = NDArray[np.float64]


def ranges(model: nn.Module, calibration: tuple[Tensor, ...], observer: Observer = "minmax") -> dict[str, Range]:
    """For each nn.Linear and nn.Conv2d that runs, the range of its input that its 256 integers shall cover.

    It holds 0, so that 0, and padding with it, is exact.

    Args:
        model: float32, in eval mode.
        calibration: inputs ``[n, ...]``, n >= 1, run a few rows at a time, twice unless the observer is "minmax".
        observer: "minmax" covers all that was seen; "percentile" `PERCENTILE` of it; "mse" has the least mean squared
            error of rounding and clipping; "entropy" the least Kullback-Leibler divergence (Migacz, TensorRT, 2017).

    Raises:
        PyprodError: the observer is unknown, there are no rows, or an activation is not finite.
    """
    if observer not in OBSERVERS:
        raise PyprodError(f"unknown observer {observer!r}; there are: {', '.join(OBSERVERS)}")
    whole = minmax(model, calibration)
    if observer == "minmax":
        return whole
    histograms = {name: np.zeros(BINS) for name in whole}

    def count(name: str, x: Tensor) -> None:
        low, high = whole[name]
        histograms[name] += torch.histc(x.float(), BINS, low, high).numpy() if high > low else 0

    watch(model, calibration, count)
    choose = {"percentile": percentile, "mse": least_error, "entropy": least_divergence}[observer]
    return {
        name: choose(histograms[name], whole[name]) if whole[name][0] < whole[name][1] else whole[name]
        for name in whole
    }


def percentile(histogram: Histogram, whole: Range) -> Range:
    """The middle `PERCENTILE` of the values, and 0."""
    edges = np.linspace(*whole, len(histogram) + 1)
    share = np.concatenate([[0], np.cumsum(histogram)]) / max(histogram.sum(), 1)
    tail = (1 - PERCENTILE) / 2
    low, high = np.interp(tail, share, edges), np.interp(1 - tail, share, edges)
    return min(float(low), 0.0), max(float(high), 0.0)


def least_error(histogram: Histogram, whole: Range) -> Range:
    """The share of the whole range with the least mean squared error."""
    centers = _centers(len(histogram), whole)

    def error(low: float, high: float) -> float:
        step = max(high - low, np.finfo(float).tiny) / (_LEVELS - 1)
        clipped = np.clip(centers, low, high)
        return float(histogram @ (np.round((clipped - low) / step) * step + low - centers) ** 2)

    return _best(error, whole)


def least_divergence(histogram: Histogram, whole: Range) -> Range:
    """The share of the whole range whose 256 levels tell most of the distribution.

    Compared are what was seen, with all that is clipped at the ends, and the same spread evenly over each level.
    """
    centers = _centers(len(histogram), whole)

    def divergence(low: float, high: float) -> float:
        inside = (centers >= low) & (centers <= high)
        if inside.sum() < _LEVELS:
            return np.inf
        seen = histogram[inside].copy()
        kept = seen > 0
        reference = seen.copy()
        reference[0] += histogram[centers < low].sum()
        reference[-1] += histogram[centers > high].sum()
        level = np.minimum((np.arange(len(seen)) * _LEVELS) // len(seen), _LEVELS - 1)
        total, used = np.bincount(level, seen, _LEVELS), np.bincount(level, kept, _LEVELS)
        spread = np.where(kept, total[level] / np.maximum(used[level], 1), 0)
        p, q = reference / reference.sum(), spread / max(spread.sum(), 1)
        both = (p > 0) & (q > 0)
        return float((p[both] * np.log(p[both] / q[both])).sum() + p[(p > 0) & (q == 0)].sum() * np.log(1e6))

    return _best(divergence, whole)


def _best(cost: Callable[[float, float], float], whole: Range) -> Range:
    tried = [(cost(whole[0] * share, whole[1] * share), share) for share in SHARES]
    share = min(tried, key=lambda pair: (pair[0], -pair[1]))[1]
    return float(whole[0] * share), float(whole[1] * share)


def _centers(bins: int, whole: Range) -> Histogram:
    edges = np.linspace(*whole, bins + 1)
    return np.asarray((edges[1:] + edges[:-1]) / 2)
