"""Numbers as a reader wants them: as many digits as they deserve, the same in every table."""

from __future__ import annotations

import math

MISSING = "–"
_DECIMALS_OF_ACCURACY = {"perplexity": 3}


def number(value: float) -> str:
    """Three significant digits: 0.0477, 4.77, 47.7, 477, 4,770, 47.7k, 4.77M."""
    if math.isnan(value):
        return MISSING
    if abs(value) >= 9_999.5:
        power, suffix = (1e6, "M") if abs(value) >= 999_500 else (1e3, "k")
        return f"{number(value / power)}{suffix}"
    if value == 0 or abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.{2 - math.floor(math.log10(abs(value) * 1.0005))}f}"


def tick(value: float) -> str:
    """A round number on an axis: 0.1, 2, 8,000, 10k."""
    text = number(value)
    digits, suffix = (text[:-1], text[-1]) if text[-1] in "kM" else (text, "")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + suffix


def speedup(value: float) -> str:
    """A factor: 2.41x, 12.3x."""
    return MISSING if math.isnan(value) else f"{value:.{2 if value < 9.995 else 1}f}x"


def interval(low: float, high: float) -> str:
    """Ends of a factor's interval: 2.35-2.47; empty when there is none."""
    return "" if math.isnan(low) or math.isnan(high) else f"{speedup(low)[:-1]}–{speedup(high)[:-1]}"


def accuracy(value: float, statistic: str) -> str:
    """A share or a correlation to 4 decimals without the leading zero (.8203), a perplexity to 3."""
    if math.isnan(value):
        return MISSING
    text = f"{value:.{_DECIMALS_OF_ACCURACY.get(statistic, 4)}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def difference(value: float, statistic: str) -> str:
    """A difference of accuracies with its sign: −.0029, +.120; 0 for none at all."""
    if math.isnan(value):
        return MISSING
    if value == 0:
        return "0"
    return ("+" if value > 0 else "−") + accuracy(abs(value), statistic)


def difference_interval(low: float, high: float, statistic: str) -> str:
    """Ends of a difference's interval: −.0050…−.0007; empty when there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{difference(low, statistic)}…{difference(high, statistic)}"


def seconds(value: float) -> str:
    """A duration with its unit: 12 ms, 3.4 s."""
    if math.isnan(value):
        return MISSING
    return f"{number(value * 1e3)} ms" if value < 1 else f"{number(value)} s"


def count(n: int, noun: str) -> str:
    """1 row, 2 rows."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
