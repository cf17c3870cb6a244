"""The verb ``ship``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pyprod.cli.common import INTERRUPTED, SUCCESS, UNDECIDED, add_verb, print_json


def add_to(verbs: Any) -> None:
    """Add the verb to the command line."""
    verb = add_verb(verbs, "ship", ship, "make the forms of a recipe file, measure them, choose the one to ship")
    verb.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="what to make, and what is demanded of it")
    verb.add_argument("--out", type=Path, default=Path("results"), help="folder of records (default: results)")


def ship(options: argparse.Namespace) -> int:
    """Exit code 3 where no form meets the demands."""
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
        print(to_text(found))
        print(f"\nrecord  {found.record}\nreport  {found.record / 'report.html'}")
    return SUCCESS if all(choice.chosen for choice in found.choices) else UNDECIDED


def to_text(found: Any) -> str:
    """For a person."""
    lines = [f"recipe {name} could not be made: {why}" for name, why in found.failed.items()]
    for choice in found.choices:
        lines.append(f"{choice.cohort}: {choice.chosen or 'no form meets all demands'}")
        lines += [f"  as good, not smaller: {name}" for name in choice.alike]
        lines += [f"  nearest: {name} with {need}" for name, need in choice.nearest.items()]
        lines += [f"  not {name}: {why}" for name, why in choice.lost.items() if name not in choice.alike]
    return "\n".join(lines)
