"""SARIF 2.1.0, for code scanning: a result per row that failed, at the file that defines its benchmark."""

from __future__ import annotations

import json

from pyprod import __version__
from pyprod.gate.book import Book
from pyprod.gate.report import words
from pyprod.measure.decide import Verdict

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_sarif(book: Book) -> str:
    """The log of one run."""
    failed = [row for row in book.told() if row.verdict is Verdict.FAIL]
    rules = [
        {"id": metric, "shortDescription": {"text": f"{metric} is worse than BASE's"}}
        for metric in sorted({row.metric for row in failed})
    ]
    results = [
        {
            "ruleId": row.metric,
            "level": "error",
            "message": {"text": words.complaint(row)},
            "locations": [
                {
                    "physicalLocation": {"artifactLocation": {"uri": book.files.get(row.benchmark, "pyproject.toml")}},
                    "logicalLocations": [{"name": row.benchmark}],
                }
            ],
            "partialFingerprints": {"pyprodGate/v1": f"{row.metric}:{row.benchmark}"},
        }
        for row in failed
    ]
    driver = {"name": "pyprod gate", "version": __version__, "rules": rules}
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
    return json.dumps(log, indent=1) + "\n"
