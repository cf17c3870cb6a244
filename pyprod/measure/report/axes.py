"""From values to pixels: linear and logarithmic scales with readable ticks, and labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """A map from values in [low, high] to pixels in [start, end]; values beyond are clamped to the ends."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)

    def ticks(self, about: int = 6) -> list[float]:
        """Round values within the scale, at most about as many as asked for."""
        if self.log and self.high / self.low > 3:
            return _log_ticks(self.low, self.high, about)
        span = (self.high - self.low) / about
        power = 10 ** math.floor(math.log10(span)) if span > 0 else 1.0
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= span)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [round(m * 10.0**p, 12) for p in powers for m in multiples if low <= m * 10.0**p <= high]
        if len(ticks) <= about:
            break
    return ticks


def padded(values: Sequence[float], share: float, log: bool = False) -> tuple[float, float]:
    """The ends of `values`, moved apart by `share` of their distance (in the logarithm if `log`)."""
    low, high = min(values), max(values)
    if log:
        ends = padded([math.log(low), math.log(high)], share)
        return math.exp(ends[0]), math.exp(ends[1])
    room = (high - low) * share or abs(high) * share or 1.0
    return low - room, high + room


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near `wanted`, at least `gap` apart, in the same order, within [low, high] where they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    previous = low - gap
    for i in order:
        previous = placed[i] = max(wanted[i], previous + gap)
    limit = high
    for i in reversed(order):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return [round(y, 1) for y in placed]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle on the plot, in pixels."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        across = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        down = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(across, 0.0) * max(down, 0.0)


def place_label(point: tuple[float, float], size: tuple[float, float], taken: Sequence[Box], inside: Box) -> Box:
    """The place around `point` for a label of `size` that covers least of what is `taken`; right of it if free."""
    (x, y), (width, height) = point, size
    best, least = Box(x, y, width, height), math.inf
    for distance in (10, 18, 28, 42):
        for dx, dy in ((1, 0), (0, -1), (0, 1), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1)):
            left = x + dx * distance - (width if dx < 0 else width / 2 if dx == 0 else 0)
            box = Box(left, y + dy * distance - height / 2, width, height)
            outside = width * height - box.overlap(inside)
            cost = sum(box.overlap(other) for other in taken) + 4 * outside + distance / 10
            if cost < least:
                best, least = box, cost
    return best
