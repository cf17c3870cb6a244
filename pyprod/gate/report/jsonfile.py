"""The verdict for programs; ``verdict.schema.json`` beside this file describes it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from pyprod import __version__
from pyprod.gate.book import Book, Row
from pyprod.gate.report import words
from pyprod.gate.sides import BASE, HEAD
from pyprod.measure.decide import Verdict

#: Unit of the values, by metric.
UNITS = {"latency": "ns", "throughput": "1/s", "peak_memory": "bytes", "size": "bytes", "accuracy": "", "energy": "J"}


def to_json(book: Book) -> str:
    """Everything the tables say; what is not known is null."""
    return json.dumps(as_object(book), indent=1) + "\n"


def as_object(book: Book) -> dict[str, Any]:
    """The same before it is text."""
    plan = book.plan
    return {
        "pyprod": __version__,
        "verdict": book.verdict or "NOTHING_COMPARED",
        "sentence": words.sentence(book),
        "note": words.note(book),
        "interrupted": book.interrupted,
        "base": plan.get("base"),
        "head": plan.get("head"),
        "rule": plan["rule"],
        "settings": plan["settings"],
        "tolerances": plan["tolerances"],
        "rows": [_row(row, book) for row in book.rows.values()],
    }


def _row(row: Row, book: Book) -> dict[str, Any]:
    found = {
        "benchmark": row.benchmark,
        "metric": row.metric,
        "file": book.files.get(row.benchmark),
        "state": row.state,
        "verdict": row.verdict,
        "reason": row.reason,
        "unit": UNITS[row.metric],
        "base": _median(row.values[BASE]),
        "head": _median(row.values[HEAD]),
        "throttled": row.throttled,
    }
    decision = row.decision
    if decision is None or row.verdict not in (Verdict.PASS, Verdict.FAIL, Verdict.UNDECIDED):
        return found | dict.fromkeys(("ratio", "low", "high", "pairs", "detectable", "noise", "faster"))
    ratio = decision.ratio
    numbers = {"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "pairs": ratio.n}
    numbers |= {"detectable": decision.detectable, "noise": decision.noise}
    clean = {key: None if math.isnan(value) else value for key, value in numbers.items()}
    return found | clean | {"faster": decision.faster}


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None
