"""The report as Markdown: machine and command, a table per cohort, the known biases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from pyprod.measure.report import cells, facts
from pyprod.measure.report.biases import BIASES
from pyprod.measure.report.frame import order


def to_markdown(
    frame: pd.DataFrame, environment: Mapping[str, Any], plan: Mapping[str, Any], sort: str = "latency"
) -> str:
    """A whole document. `frame` is from `summarize`; `sort` as in `to_text`."""
    lines = ["# Benchmark report", ""]
    lines += [f"- {name}: {_inline(value)}" for name, value in facts.headline(environment)]
    if typed := facts.command(plan):
        lines += [f"- Command: `{typed}`"]
    lines += [f"- Plan: {_inline(', '.join(f'{path} {value}' for path, value in facts.settings(plan)))}", ""]
    lines += [to_markdown_tables(frame, sort)]
    lines += ["## Known biases", ""]
    lines += [f"- **{point.title}.** {point.text}" for point in BIASES]
    return "\n".join(lines) + "\n"


def to_markdown_tables(frame: pd.DataFrame, sort: str = "latency") -> str:
    """The tables and their legend alone, to be spliced into another document."""
    lines: list[str] = []
    for heading, cohort in cells.cohorts(order(frame, sort)):
        lines += [f"### {_inline(heading)}", "", *_table(cohort), ""]
    return "\n".join([*lines, *(f"{line}  " for line in map(_inline, cells.LEGEND)), ""])


def _table(cohort: pd.DataFrame) -> Iterable[str]:
    rows = [(row, cells.measured(row)) for _, row in cohort.iterrows()]
    headings = next((list(cell) for row, cell in rows if row["status"] == "ok"), list(rows[0][1]))
    yield _line(headings)
    yield _line(["---" if name in ("form", "speed-up", "difference") else "---:" for name in headings])
    for row, cell in rows:
        if row["status"] == "ok":
            yield _line(map(_inline, cell.values()))
        else:
            failure = [_inline(str(row["form"])), *[""] * (len(headings) - 1)]
            failure[headings.index("speed-up")] = f"**{_inline(cells.reason(row))}**"
            yield _line(failure)


def _line(cells_: Iterable[str]) -> str:
    return f"| {' | '.join(cell.strip() for cell in cells_)} |"


def _inline(text: str) -> str:
    """Text that must not become markup: a failure's message may hold anything."""
    for character in "\\`*_|[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("<", "&lt;").split())
