"""The table for a terminal."""

from __future__ import annotations

import io
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyprod.gate.book import Book
from pyprod.gate.report import words

_STYLES = {"FAIL": "bold red", "UNDECIDED": "yellow", "PASS": "green"}
#: Where the width does not allow all, these go first.
_DISPENSABLE = ("noise", "pairs", "head", "detectable")
_NARROWEST, _REMARK = 16, 8
_LEFT = ("benchmark", "metric", "verdict")


def to_text(book: Book, width: int = 110, color: bool = False) -> str:
    """Rows that failed first; lines of at most `width` characters."""
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=color, color_system="standard" if color else None, legacy_windows=False
    )
    console.print(escape(words.title(book)), style="bold")
    if note := words.note(book):
        console.print(escape(note), style="yellow")
    rows = [words.cells(row) for row in words.shown(book)]
    console.print(_table(rows, width))
    if hidden := words.hidden(book):
        console.print(hidden, style="dim")
    console.print(escape(words.sentence(book)), style=_STYLES.get(str(book.verdict), "bold"), soft_wrap=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _table(rows: list[words.Cells], width: int) -> Table:
    headings = words.HEADINGS._asdict()
    cells = [row._asdict() for row in rows]
    columns = [key for key in headings if key != "remark" and any(row[key] for row in cells)]
    if len({row.metric for row in rows}) == 1:
        columns.remove("metric")

    widths = {key: max(len(row[key]) for row in (headings, *cells)) for key in columns}

    def room() -> int:
        return width - sum(1 + widths[key] for key in columns) - _REMARK

    for key in _DISPENSABLE:
        if key in columns and room() < 0:
            columns.remove(key)
    if rows:
        widths["benchmark"] = max(_NARROWEST, min(widths["benchmark"], widths["benchmark"] + room()))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for key in columns:
        side: Literal["left", "right"] = "left" if key in _LEFT else "right"
        table.add_column(headings[key], justify=side, no_wrap=True, width=widths[key], overflow="ellipsis")
    table.add_column("", max_width=_REMARK + max(0, room()), overflow="ellipsis", no_wrap=True)
    for row in cells:
        style = _STYLES.get(row["verdict"], "dim")
        texts = [f"[{style}]{escape(row[key])}" if key == "verdict" else escape(row[key]) for key in columns]
        table.add_row(*texts, escape(row["remark"]))
    return table
