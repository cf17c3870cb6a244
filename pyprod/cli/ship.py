"""The verb ``ship``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyprod.cli.common import FAIL, INTERRUPTED, SUCCESS, UNDECIDED, add_verb, print_json


def add_to(verbs: Any) -> None:
    """Add the verb to the command line."""
    verb = add_verb(verbs, "ship", ship, "make the forms of a recipe file, measure them, choose the one to ship")
    verb.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="what to make, and what is demanded of it")
    verb.add_argument("--out", type=Path, default=Path("results"), help="folder of records (default: results)")


def ship(options: argparse.Namespace) -> int:
    """Exit code 3 where no form meets the demands, 1 where a file of the chosen one is not the model."""
    from pyprod import recipes
    from pyprod import ship as ship_
    from pyprod.measure import report, store
    from pyprod.progress import Bar

    file = recipes.read(options.recipe)
    try:
        with Bar("shipping") as bar:
            found = ship_.ship(file, options.out, bar)
    except KeyboardInterrupt:
        print(f"pyprod: interrupted; what is done is kept. Go on with: pyprod ship {options.recipe}", file=sys.stderr)
        return INTERRUPTED
    kept = store.read(found.record)
    for name in ("report.md", "report.html"):
        report.write(kept.measurements, kept.environment, kept.plan, found.record / name)
    if options.json:
        print_json(ship_.to_json(found, file))
    else:
        rows = report.summarize(kept.measurements)
        latency = dict(zip(rows["candidate"], rows["latency_p50_ms"], strict=True))
        show(found, latency, Console(width=None if sys.stdout.isatty() else 120))
        for made in (file_ for files in found.files.values() for file_ in files):
            where = found.record / ship_.FILES / made["file"] if made["file"] else made["problem"]
            print(f"{made['format']}  {where}")
        print(f"\nrecord  {found.record}\nreport  {found.record / 'report.html'}")
    if any(made["problem"] for files in found.files.values() for made in files):
        return FAIL
    return SUCCESS if all(choice.chosen for choice in found.choices) else UNDECIDED


def show(found: Any, latency: Mapping[str, float], console: Console) -> None:
    """For a person: of each cohort the form chosen, or those that come nearest; then why not the others.

    Args:
        latency: median of a call by candidate, ms.
    """
    for name, why in found.failed.items():
        console.print(f"[red]recipe {escape(name)} could not be made: {escape(why)}")
    for choice in found.choices:
        console.print(f"\n{choice.cohort}: [bold]{choice.chosen or 'no form meets all demands'}")
        if choice.trust == "untrustworthy":
            console.print(
                "  [yellow]the same form measured twice differs by more than 3%: measure on a quieter machine"
            )
        for name, need in choice.nearest.items():
            console.print(f"  nearest: {_form(name)}, with {need}")
        table = Table(box=None, pad_edge=False, header_style="bold")
        demands = [judged.demand for judged in next(iter(choice.judged.values()), ())]
        for heading in ("form", "median ms", *(_HEADINGS.get(demand, demand) for demand in demands), ""):
            table.add_column(heading, justify="left" if heading in ("form", "") else "right")
        for name, judged in choice.judged.items():
            table.add_row(_form(name), f"{latency[name]:.3g}", *map(_cell, judged), _why(choice, name))
        console.print(table)
        console.print("? can't say within the noise, ✗ misses the demand", style="dim")


#: Where what is shown is not what the demand is called by.
_HEADINGS = {"accuracy_drop": "accuracy change"}


def _form(name: str) -> str:
    _, recipe, backend, *_ = name.rsplit("/", 5)
    return f"{recipe}/{backend}"


def _cell(judged: Any) -> str:
    number = f"{judged.value:+.4f}" if judged.demand == "accuracy_drop" else f"{judged.value:.4g}"
    return {"met": "", "unclear": "? ", "missed": "✗ "}[judged.verdict] + number


def _why(choice: Any, name: str) -> str:
    """A clause; what a demand says is marked in its column."""
    if name == choice.chosen:
        return "[bold]chosen"
    failed = any(judged.verdict != "met" for judged in choice.judged[name])
    return "" if failed else choice.lost.get(name, "")
