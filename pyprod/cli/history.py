"""The verb ``history``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyprod.cli.common import FAIL, SUCCESS, add_verb, print_json, share


def add_to(verbs: Any) -> None:
    """Add the verb to the command line."""
    verb = add_verb(verbs, "history", history, "where asv's results stepped over the commits, and between which")
    verb.add_argument("patterns", nargs="*", metavar="PATTERN", help="only benchmarks that match, e.g. '*int8_gemm*'")
    verb.add_argument("--results", type=Path, default=Path("results/asv"), help="asv's folder (default: results/asv)")
    verb.add_argument("--machine", default="", help="only this machine's")
    verb.add_argument("--threshold", type=share, default=0.03, metavar="SHARE", help="smaller steps are not told (3%%)")
    verb.add_argument("--html", type=Path, metavar="FILE", help="write plots of every series")
    verb.add_argument("--fail", action="store_true", help="exit 1 if a benchmark is now worse than it has been")


def history(options: argparse.Namespace) -> int:
    """Print the steps; a page of plots if asked for."""
    from pyprod import history as history_
    from pyprod.history import page
    from pyprod.measure import store

    series = history_.read(options.results, options.patterns, options.machine)
    found = {s: list(history_.steps(s, options.threshold)) for s in series}
    if options.html:
        store.write_atomically(options.html, page.to_html(found))
    worse = [s for s, steps in found.items() if history_.unmended(steps, options.threshold)]
    told = [step for steps in found.values() for step in steps]
    if options.json:
        keys = ("last", "first", "before", "after", "ratio")
        rows = [
            {"machine": s.series.machine, "benchmark": s.series.name} | {key: getattr(s, key) for key in keys}
            for s in told
        ]
        print_json({"series": len(series), "steps": rows, "worse_now": [s.name for s in worse]})
    else:
        _print(told, len(series), len(worse))
    return FAIL if options.fail and worse else SUCCESS


def _print(steps: list[Any], series: int, worse: int) -> None:
    table = Table("benchmark", "machine", box=None, pad_edge=False, header_style="dim")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    table.add_column("commits")
    for step in sorted(steps, key=lambda s: -s.ratio):
        style = "red" if step.ratio > 1 else "green"
        change = f"[{style}]{100 * (step.ratio - 1):+.1f}%"
        levels = (f"{step.before:.4g}", f"{step.after:.4g}")
        commits = f"{step.last[:8]}..{step.first[:8]}"
        table.add_row(escape(step.series.name), step.series.machine, *levels, change, commits)
    if steps:
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    print(f"{len(steps)} steps in {series} series; {worse} are now worse than they have been")
