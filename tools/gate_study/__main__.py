"""``python -m tools.gate_study FOLDER --runs N`` takes runs; without ``--runs`` it prints the tables."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from tools.gate_study import run, tables


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="record of the study, e.g. results/gate-study/2026-01-31")
    parser.add_argument("--runs", type=int, default=0, metavar="N", help="gates to run now")
    parser.add_argument(
        "--load", type=int, default=run.Plan.load, help="processes of other work (default: %(default)s)"
    )
    for name in ("budget", "tolerance"):
        default = getattr(run.Plan, name).replace("%", "%%")
        parser.add_argument(f"--{name}", default=getattr(run.Plan, name), help=f"of each gate (default: {default})")
    parser.add_argument(
        "--null-share",
        type=float,
        default=run.Plan.null_share,
        metavar="SHARE",
        help="of gates, that judge an edit that changes nothing (default: %(default)s)",
    )
    parser.add_argument("--no-realtime", dest="realtime", action="store_false")
    parser.add_argument("--no-rivals", dest="rivals", action="store_false", help="the gate alone")
    options = parser.parse_args()
    if options.runs:
        chosen = vars(options)
        plan = run.Plan(**{field.name: chosen[field.name] for field in dataclasses.fields(run.Plan)})
        run.begin(options.folder, plan)
        run.run(options.folder, plan, options.runs)
    print(tables.to_markdown(json.loads((options.folder / run.PLAN).read_text()), run.read(options.folder)))


if __name__ == "__main__":
    main()
