"""The table for a terminal: one block per cohort, failures as rows, never wider than it was told."""

from __future__ import annotations

import io

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pyprod.measure.report import cells
from pyprod.measure.report.frame import order

#: Where the width does not allow all, these go first.
_DISPENSABLE = ["RSS MB", "GPU MB", "/s", "tok/s", "p99 ms", "MB", "difference", "accuracy"]
_NARROWEST_NAME = 16
#: Headings that are wider than their numbers: folding them leaves the width to the names.
_TWO_LINES = {
    "p50 ms": "p50\nms",
    "p99 ms": "p99\nms",
    "accuracy": "accu-\nracy",
    "RSS MB": "RSS\nMB",
    "GPU MB": "GPU\nMB",
}
_STYLES = {"trustworthy": "bold", "unchecked": "bold yellow", "untrustworthy": "bold red"}


def to_text(frame: pd.DataFrame, sort: str = "latency", width: int = 100, color: bool = False) -> str:
    """The table as lines of at most `width` characters.

    Args:
        frame: from `summarize`.
        sort: any column, full or short name ("latency", "throughput", "accuracy", "size", "memory"); best first.
        width: characters per line; below about 90 the less important columns are left out.
        color: with ANSI escapes, for a terminal.

    Raises:
        PyprodError: there is no such column.
    """
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=color, color_system="standard" if color else None, legacy_windows=False
    )
    for heading, cohort in cells.cohorts(order(frame, sort)):
        console.print(Text(heading, style=_STYLES[cohort["cohort_trust"].iloc[0]]))
        _print_cohort(console, cohort, width)
        console.print()
    for line in cells.LEGEND if len(frame) else ["nothing was measured"]:
        console.print(Text(line, style="dim"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _print_cohort(console: Console, cohort: pd.DataFrame, width: int) -> None:
    done = cohort["status"].eq("ok")
    rows = [cells.measured(row) for _, row in cohort[done].iterrows()]
    names = [row["form"] for row in rows] + [f"  {name}" for name in cohort["form"][~done]]
    name_width, headings = _fit(rows, max(map(len, names)), width)
    table = _grid(show_header=bool(rows))
    table.add_column("  form", width=name_width, no_wrap=True, overflow="ellipsis")
    for name in headings:
        left = name in ("speed-up", "difference")
        table.add_column(_TWO_LINES.get(name, name), justify="left" if left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(row[name]) for name in ["form", *headings]))
    if rows:
        console.print(table)
    failures = _grid(show_header=False)
    failures.add_column(width=name_width, no_wrap=True, overflow="ellipsis")
    failures.add_column(width=width - name_width - 1, no_wrap=True, overflow="ellipsis", style="red")
    for _, failed in cohort[~done].iterrows():
        failures.add_row(escape(f"  {failed['form']}"), escape(cells.reason(failed)))
    if not done.all():
        console.print(failures)


def _grid(show_header: bool) -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=show_header, header_style="dim")


def _fit(rows: list[dict[str, str]], longest: int, width: int) -> tuple[int, list[str]]:
    """The width of the name column, and the headings that have room beside it."""
    if not rows:
        return min(longest, width // 2), []
    headings = [name for name in rows[0] if name != "form"]
    dispensable = [name for name in _DISPENSABLE if name in headings]
    while True:
        room = width - sum(1 + _cell_width(name, rows) for name in headings)
        if room >= min(longest, _NARROWEST_NAME) or not dispensable:
            return max(4, min(longest, room)), headings
        headings.remove(dispensable.pop(0))


def _cell_width(name: str, rows: list[dict[str, str]]) -> int:
    lines = _TWO_LINES.get(name, name).split("\n")
    return max(map(len, [*lines, *(row[name] for row in rows)]))
