"""The geometry of the plots, as plain values; templates/charts.html draws them. All lengths in pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pyprod.measure.report import digits
from pyprod.measure.report.axes import Box, Scale, padded, place_label, spread

WIDTH = 500
_NAMES = 170  # room for the names of forms left of a row
_VALUES = 54  # room for a number right of a row
_ROW = 24
_AXIS = 26
_BINS = 48
#: Forms that lose more than this share of the best accuracy are drawn at the lower edge: they would flatten the rest.
_SHOWN_LOSS = 0.1
_LETTER = 6.7  # widest average letter of the 12 px labels

Plot = dict[str, Any]


def latencies(cohort: pd.DataFrame, samples: Mapping[str, list[float]]) -> Plot | None:
    """A density of the calls per form on a common logarithmic axis, with median and p99. `samples` in ms by id."""
    rows = cohort[cohort["latency_p50_ms"] > 0].sort_values("latency_p50_ms")
    if rows.empty:
        return None
    ends = [np.percentile(samples[name], (1, 99)) for name in rows["candidate"]]
    plot = _rows_plot(rows, *padded(np.ravel(ends).tolist(), 0.04, log=True), log=True)
    for row, (_, form), (low, high) in zip(plot["rows"], rows.iterrows(), ends, strict=True):
        row["path"] = _density(samples[form["candidate"]], low, high, plot["scale"], row["y"])
        row["p50"], row["p99"] = plot["scale"](form["latency_p50_ms"]), plot["scale"](form["latency_p99_ms"])
        row["value"] = digits.number(form["latency_p50_ms"])
        row["title"] = (
            f"{form['form']}: p50 {row['value']} ms, p90 {digits.number(form['latency_p90_ms'])} ms, "
            f"p99 {digits.number(form['latency_p99_ms'])} ms, {digits.count(form['calls'], 'call')}"
        )
    return plot


def speedups(cohort: pd.DataFrame) -> Plot | None:
    """A bar per form from 0, with the interval; None where there is nothing to compare."""
    rows = cohort[cohort["speedup"] > 0].sort_values("speedup", ascending=False)
    if len(rows) < 2:
        return None
    plot = _rows_plot(rows, 0.0, rows[["speedup", "speedup_high"]].max().max() * 1.02)
    plot["one"] = plot["scale"](1.0)
    for row, (_, form) in zip(plot["rows"], rows.iterrows(), strict=True):
        low, high = form["speedup_low"], form["speedup_high"]
        row["end"], row["value"] = plot["scale"](form["speedup"]), digits.speedup(form["speedup"])
        row["whisker"] = None if math.isnan(low) else (plot["scale"](low), plot["scale"](high))
        ends = digits.interval(low, high) or f"no interval from {digits.count(form['speedup_rounds'], 'round')}"
        row["title"] = f"{form['form']}: {row['value']} the speed of the baseline, 95% interval {ends}"
    return plot


def pareto(cohort: pd.DataFrame) -> Plot | None:
    """Latency x accuracy with the size as area. The line is the front's best accuracy within a latency."""
    rows = cohort[(cohort["latency_p50_ms"] > 0) & cohort["accuracy"].notna() & (cohort["status"] == "ok")]
    if rows.empty:
        return None
    x = Scale(*padded(rows["latency_p50_ms"].tolist(), 0.12, log=True), 52, WIDTH - 24, log=True)
    y = _accuracy_scale(rows)
    largest = rows["artifact_mb"].max()
    points = [_point(form, x, y, largest) for _, form in rows.iterrows()]
    _label(points, Box(52, 8, WIDTH - 60, 252))
    return {
        "width": WIDTH,
        "height": 300,
        "x_ticks": [(x(t), digits.tick(t)) for t in x.ticks(7)],
        "y_ticks": [(y(t), f"{t:.4g}") for t in y.ticks(5)],
        "points": sorted(points, key=lambda p: -p["radius"]),  # small ones on top
        "line": _staircase(points, x.end),
        "y_name": rows["statistic"].iloc[0],
    }


def _accuracy_scale(rows: pd.DataFrame) -> Scale:
    """Better is up. Room for the intervals of all forms but those that lose too much to be shown in place."""
    lower_is_better = rows["statistic"].iloc[0] == "perplexity"
    best = rows["accuracy"].min() if lower_is_better else rows["accuracy"].max()
    shown = rows[(rows["accuracy"] - best).abs() <= _SHOWN_LOSS * abs(best)]
    ends = [value for _, form in shown.iterrows() for value in (form["accuracy"], *(_interval(form) or ()))]
    return Scale(*padded(ends, 0.08), *((18, 256) if lower_is_better else (256, 18)))


def _interval(form: pd.Series[Any]) -> tuple[float, float] | None:
    """The accuracy with the interval of its difference to the baseline; None for the baseline and its equals."""
    low, high = form["accuracy_difference_low"], form["accuracy_difference_high"]
    if not low < high:
        return None
    baseline = form["accuracy"] - form["accuracy_difference"]
    return baseline + low, baseline + high


def _point(form: pd.Series[Any], x: Scale, y: Scale, largest: float) -> Plot:
    size, accuracy = form["artifact_mb"], digits.accuracy(form["accuracy"], form["statistic"])
    below, interval = not y.low <= form["accuracy"] <= y.high, _interval(form)
    labeled = form["pareto"] or form["baseline"] or below
    return {
        "x": x(form["latency_p50_ms"]),
        "y": y(form["accuracy"]),
        "below": below,
        "whisker": None if below or not interval else [y(end) for end in interval],
        "front": form["pareto"],
        "numerics": form["numerics"],
        "radius": round(math.sqrt(110 * (size / largest if size > 0 else 0.3)), 1),
        "label": f"{form['form']} {accuracy if below else ''}".strip() if labeled else "",
        "title": f"{form['form']}: {digits.number(form['latency_p50_ms'])} ms, accuracy {accuracy}, "
        f"{digits.number(size)} MB",
    }


def _staircase(points: list[Plot], end: float) -> list[tuple[float, float]]:
    """The best accuracy on the front within each latency, as corners of a line that runs on to `end`."""
    corners: list[tuple[float, float]] = []
    for point in sorted((p for p in points if p["front"] and not p["below"]), key=lambda p: p["x"]):
        if not corners or point["y"] < corners[-1][1]:
            corners += [(point["x"], corners[-1][1])] if corners else []
            corners += [(point["x"], point["y"])]
    return [*corners, (end, corners[-1][1])] if corners else []


def throughput(forms: pd.DataFrame) -> Plot | None:
    """Throughput over batch size, a line per form, of one workload, device and thread count."""
    rows = forms[forms["throughput_per_s"] > 0]
    batches = sorted(set(rows["batch"]))
    if len(batches) < 2:
        return None
    x = Scale(batches[0], batches[-1], 58, 900, log=True)
    y = Scale(*padded(rows["throughput_per_s"].tolist(), 0.05, log=True), 330, 14, log=True)
    lines: list[Plot] = []
    for name, form in rows.sort_values("batch").groupby("form"):
        values = zip(form["batch"], form["throughput_per_s"], strict=True)
        points = [(x(batch), y(rate), f"{name}, batch {batch}: {digits.number(rate)}/s") for batch, rate in values]
        last = f"{name} {digits.number(form['throughput_per_s'].iloc[-1])}"
        last += f" (batch {form['batch'].iloc[-1]})" if form["batch"].iloc[-1] < batches[-1] else ""
        lines.append({"name": last, "numerics": form["numerics"].iloc[0], "points": points})
    for line, label in zip(lines, spread([line["points"][-1][1] for line in lines], 15, 14, 334), strict=True):
        line["label_y"] = label
    return {
        "width": 1180,
        "height": 370,
        "right": x.end,
        "x_ticks": [(x(batch), str(batch)) for batch in batches],
        "y_ticks": [(y(t), digits.tick(t)) for t in y.ticks(6)],
        "lines": lines,
    }


def _rows_plot(rows: pd.DataFrame, low: float, high: float, log: bool = False) -> Plot:
    """The frame of a plot with a row per form: names left, an axis below, room for a number right."""
    scale = Scale(low, high, _NAMES + 16, WIDTH - _VALUES, log)
    height = _ROW * len(rows) + 8
    named = zip(rows["form"], rows["numerics"], rows["baseline"], strict=True)
    return {
        "width": WIDTH,
        "height": height + _AXIS,
        "floor": height,
        "names": _NAMES,
        "left": scale.start,
        "right": scale.end,
        "scale": scale,
        "ticks": [(scale(t), digits.tick(t)) for t in scale.ticks(5)],
        "rows": [
            {"name": _short(name), "numerics": numerics, "baseline": baseline, "y": 4 + _ROW * (i + 0.5)}
            for i, (name, numerics, baseline) in enumerate(named)
        ],
    }


def _short(name: str) -> str:
    """A name that fits its column; cut in the middle, where names of forms say least."""
    fits = int(_NAMES / _LETTER)
    return name if len(name) <= fits else f"{name[: fits // 2]}…{name[len(name) - fits // 2 + 1 :]}"


def _density(samples: list[float], low: float, high: float, scale: Scale, middle: float) -> str:
    """An SVG path: the share of calls over the logarithm of the latency, mirrored about `middle`."""
    if not 0 < low < high:
        return ""
    counts, edges = np.histogram(np.log(np.clip(samples, low, high)), bins=_BINS)
    smooth = np.convolve(np.pad(counts, 2), [1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9], mode="same")
    heights = (_ROW / 2 - 2.5) * smooth / smooth.max()
    step = edges[1] - edges[0]
    xs = [scale(math.exp(edges[0] + step * (i - 1.5))) for i in range(len(heights))]
    upper = [f"{x:g},{middle - h:.1f}" for x, h in zip(xs, heights, strict=True)]
    lower = [f"{x:g},{middle + h:.1f}" for x, h in zip(xs, heights, strict=True)]
    return f"M{' '.join(upper + lower[::-1])}Z"


def _label(points: list[Plot], inside: Box) -> None:
    """Give each point that has a label a place for it that covers neither points nor other labels."""
    taken = [Box(p["x"] - p["radius"], p["y"] - p["radius"], 2 * p["radius"], 2 * p["radius"]) for p in points]
    for point in sorted((p for p in points if p["label"]), key=lambda p: (not p["front"], p["x"])):
        size = (_LETTER * len(point["label"]), 14.0)
        box = place_label((point["x"], point["y"]), size, taken, inside)
        taken.append(box)
        point["at"] = (round(box.x, 1), round(box.y + 11, 1))
