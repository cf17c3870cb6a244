"""What the verbs have in common: exit codes, printing JSON, reading records."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyprod.measure import store
from pyprod.types import PyprodError

SUCCESS, FAIL, ERROR, UNDECIDED, NOTHING_MEASURED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def add_verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
    """A verb's own parser, with what all verbs have."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:])
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=run)
    return verb


def print_json(value: Any) -> None:
    """One value, for programs."""
    print(json.dumps(value, indent=1))


def read_records(paths: Sequence[Path]) -> store.Record:
    """Records merged into one; one that can't be read is named and skipped, unless it is the only one."""
    records = []
    for path in paths:
        try:
            records.append(store.read(path))
        except PyprodError as error:
            if len(paths) == 1:
                raise
            print(f"pyprod: warning: skipped: {error}", file=sys.stderr)
    if not records:
        raise PyprodError("none of the records could be read")
    for warning in (w for record in records for w in record.warnings):
        print(f"pyprod: warning: {warning}", file=sys.stderr)
    measurements = tuple(m for record in records for m in record.measurements)
    return store.Record(records[0].path, records[0].environment, records[0].plan, measurements, ())


def share(text: str) -> float:
    """The type of an option: "2%" or "0.02"."""
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)
