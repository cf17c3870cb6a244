"""The verb ``compare``."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyprod.cli.common import SUCCESS, add_verb, print_json, read_records
from pyprod.types import PyprodError


def add_to(verbs: Any) -> None:
    """Add the verb to the command line."""
    verb = add_verb(
        verbs, "compare", compare, "two forms of a record side by side: what the one gains, and at what price"
    )
    verb.add_argument("first", metavar="A", help="backend, recipe/backend, or a candidate's whole id")
    verb.add_argument("second", metavar="B", help="what it is compared with")
    verb.add_argument("records", nargs="*", type=Path, metavar="RECORD", help="default: the newest of results/")


def compare(options: argparse.Namespace) -> int:
    """Exit code 0 whatever the outcome: it explains, and `pyprod gate` decides."""
    from pyprod.measure.contrast import contrast

    record = read_records(options.records or [_newest(Path("results"))])
    found = contrast(record.measurements, options.first, options.second)
    if options.json:
        print_json([asdict(each) for each in found])
        return SUCCESS
    console = Console(width=None if sys.stdout.isatty() else 120)
    for each in found:
        show(each, console)
    notes = [(_form(name), note) for each in found for name, own in _noted(each) for note in own]
    for name, note in dict.fromkeys(notes):
        console.print(f"{name}: {escape(note)}", style="dim")
    return SUCCESS


def _noted(found: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return (found.first, found.notes[0]), (found.second, found.notes[1])


def show(found: Any, console: Console) -> None:
    """For a person: the sentence, the table, examples, notes."""
    from pyprod.measure.contrast import in_words

    first, second = (_form(name) for name in (found.first, found.second))
    console.print(f"\n{found.cohort}: [bold]{first}[/] against [bold]{second}[/]: {in_words(found)}")
    if found.trust == "untrustworthy":
        console.print("  [yellow]the same form measured twice differs by more than 3%: measure on a quieter machine")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", first, second, "A / B, of accuracy A − B", "better"):
        table.add_column(heading, justify="left" if heading in ("", "better") else "right")
    for aspect in found.aspects:
        name = f"{aspect.name} ({aspect.unit})"
        better = {"first": first, "second": second, "alike": "can't be told apart", "unknown": "no interval"}
        table.add_row(name, f"{aspect.first:.4g}", f"{aspect.second:.4g}", _effect(aspect), better[aspect.better])
    console.print(table)
    if found.pairs is not None:
        won, lost = found.rows
        console.print(
            f"examples right in {first} only: {len(won)}{_rows(won)}; in {second} only: {len(lost)}{_rows(lost)}; "
            f"McNemar's p {found.pairs.p:.2g}"
        )


def _effect(aspect: Any) -> str:
    effect = aspect.effect
    digits = "+.4f" if aspect.name == "accuracy" else ".3f"
    text = f"{effect.value:{digits}}"
    return (
        text
        if math.isnan(effect.low) or effect.low == effect.high
        else f"{text} [{effect.low:{digits}}, {effect.high:{digits}}]"
    )


def _rows(rows: tuple[int, ...], most: int = 8) -> str:
    if not rows:
        return ""
    return f" (rows {', '.join(map(str, rows[:most]))}{', ...' if len(rows) > most else ''})"


def _form(name: str) -> str:
    _, recipe, backend, *_ = name.rsplit("/", 5)
    return backend if recipe == "base" else f"{recipe}/{backend}"


def _newest(results: Path) -> Path:
    """The newest record below `results`.

    Raises:
        PyprodError: there is none.
    """
    from pyprod.measure import store

    found = sorted((path.parent for path in results.glob(f"*/{store.PLAN}")), reverse=True)
    models = (path for path in found if "suite" not in store.read(path).plan)  # not the kernels' own
    newest = next(models, None)
    if newest is None:
        raise PyprodError(f"no record below {results}: run pyprod bench, or name one")
    return newest
