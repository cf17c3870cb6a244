"""The command ``pyprod``: a file or a thin function per verb.

Exit codes: 0 success or PASS, 1 FAIL, 2 usage, build or environment error, 3 UNDECIDED, 4 nothing was measured;
130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyprod import __version__, environment
from pyprod.cli import bench, compare, export, gate, history, ship
from pyprod.cli.common import ERROR, INTERRUPTED, SUCCESS, add_verb, print_json
from pyprod.types import PyprodError

__all__ = ["main", "parser"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except PyprodError as error:
        print(f"pyprod: {error}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:  # where a verb has nothing to keep
        print("pyprod: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `pyprod list | head`
        sys.stderr.close()
        return SUCCESS


def parser() -> argparse.ArgumentParser:
    """The command line, verb by verb."""
    top = argparse.ArgumentParser(prog="pyprod", description="Which form of this model should run in production here?")
    top.add_argument("--version", action="version", version=f"pyprod {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = add_verb(verbs, "list", list_, "what exists here, and what can't run here and why")
    verb.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="the device asked about (default: cpu)")

    verb = add_verb(verbs, "env", env, "this machine, as it is stored with every record")
    verb.add_argument("--ceilings", action="store_true", help="measure instead what it can do at most (20 s)")

    bench.add_to(verbs)
    gate.add_to(verbs)
    history.add_to(verbs)
    ship.add_to(verbs)
    compare.add_to(verbs)
    export.add_to(verbs)
    return top


def list_(options: argparse.Namespace) -> int:
    """Workloads and backends by name; for each that can't run here, the reason."""
    from pyprod import catalog  # imports torch and every backend: seconds that --help need not wait for

    rows = catalog.rows(options.device)
    if options.json:
        print_json(rows)
        return SUCCESS
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("kind", "name", "what", "here"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        here = f"[yellow]no: {escape(row['unavailable'])}" if row["unavailable"] else f"[green]{escape(row['here'])}"
        table.add_row(row["kind"], row["name"], escape(row["what"]), here)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return SUCCESS


def env(options: argparse.Namespace) -> int:
    """The fingerprint, or the measured ceilings: a table, with --json both."""
    if not options.ceilings:
        print_json(environment.fingerprint())
        return SUCCESS
    from pyprod import ceilings
    from pyprod.progress import Bar

    with Bar("measuring") as bar:
        found = ceilings.ceilings(bar)
    if options.json:
        print_json(environment.fingerprint() | {"ceilings": found})
    else:
        print(ceilings.to_text(found))
    return SUCCESS
