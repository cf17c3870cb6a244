"""The history as one HTML page without scripts: a plot for each series, its levels and steps marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2

from pyprod.history import Series, Step

WIDTH, HEIGHT, MARGIN = 640, 120, 8


def to_html(found: Mapping[Series, Sequence[Step]]) -> str:
    """Series with steps first."""
    template = resources.files("pyprod.history").joinpath("templates/history.html").read_text()
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    plots = [_plot(series, steps) for series, steps in sorted(found.items(), key=lambda item: not item[1])]
    return environment.from_string(template).render(plots=plots, width=WIDTH, height=HEIGHT)


def _plot(series: Series, steps: Sequence[Step]) -> dict[str, Any]:
    """Geometry in pixels; the vertical axis begins at 0, so that a step looks as large as it is."""
    known = [v for v in series.values if not math.isnan(v)]
    top = max(known, default=1.0) or 1.0
    count = max(2, len(series.values))

    def x(position: float) -> float:
        return round(MARGIN + position / (count - 1) * (WIDTH - 2 * MARGIN), 1)

    def y(value: float) -> float:
        return round(HEIGHT - MARGIN - value / top * (HEIGHT - 2 * MARGIN), 1)

    points = [
        {"x": x(i), "y": y(v), "title": f"{commit[:8]}: {v:.4g}"}
        for i, (commit, v) in enumerate(zip(series.commits, series.values, strict=True))
        if not math.isnan(v)
    ]
    marks = [
        {
            "x": x(step.start - 0.5),
            "worse": step.ratio > 1,
            "text": f"{100 * (step.ratio - 1):+.1f}%",
            "range": f"{step.last[:8]}..{step.first[:8]}",
            "x1": x(step.start),
            "x2": x(step.end - 1),
            "y": y(step.after),
        }
        for step in steps
    ]
    return {"name": series.name, "machine": series.machine, "points": points, "marks": marks, "top": f"{top:.3g}"}
