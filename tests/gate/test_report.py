"""Reports: every format says the same, and is what its readers parse."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from pyprod.gate import report
from pyprod.gate.book import LATENCY, Book
from pyprod.types import PyprodError
from tests.gate.test_book import LOOK, book, failure, inventory, sample, samples


@pytest.fixture
def mixed() -> Book:
    """Slower, level, undecided, broken in HEAD, new, and a size that passes."""
    noisy = [sample("noisy", pair, 1000, 1000 * factor) for pair, factor in enumerate((1.1, 0.9, 1.2, 0.8, 1.0, 1.05))]
    return book(
        {"kind": "exact", "benchmark": "lib.so", "metric": "size", "base": 100, "head": 101},
        inventory("a|slow", "level", "noisy", "broken", "new"),
        *samples("a|slow", 1.05),
        *samples("level", 1.0),
        *noisy,
        failure("broken", "head"),
        failure("new", "base"),
        LOOK,
    )


def test_text(mixed: Book) -> None:
    lines = report.to_text(mixed, width=120).splitlines()
    assert all(len(line) <= 120 for line in lines)
    assert {tuple(line.split()[:3]) for line in lines[2:8]} == {
        ("a|slow", "latency", "FAIL"),
        ("broken", "latency", "FAIL"),
        ("noisy", "latency", "UNDECIDED"),
        ("noisy", "throughput", "UNDECIDED"),
        ("new", "latency", "new"),
        ("level", "latency", "PASS"),
    }
    assert "+5.0%" in lines[2]
    assert "size of 1 passed, throughput of 2 passed" in "\n".join(lines)
    assert "FAIL: 2 of 8 rows: a|slow is 5.0% slower [5.0, 5.0]; broken: HEAD: error in slice: broken" in " ".join(
        lines
    )


@pytest.mark.parametrize("width", [40, 80, 300])
def test_text_fits(mixed: Book, width: int) -> None:
    assert all(len(line) <= width for line in report.to_text(mixed, width).splitlines())


def test_nothing_at_all() -> None:
    empty = book(inventory())
    assert "nothing was compared" in report.to_text(empty)
    for render in report.FORMATS.values():
        assert render(empty)


def test_markdown(mixed: Book) -> None:
    text = report.to_markdown(mixed)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    assert "❌ FAIL" in text
    assert "a\\|slow" in text


def test_junit(mixed: Book) -> None:
    suite = ET.fromstring(report.to_junit(mixed))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("9", "2", "3")
    failures = {(case.get("classname"), case.get("name")): case.find("failure") for case in suite}
    slow = failures["gate.latency", "a|slow"]
    assert slow is not None
    assert "5.0% slower" in (slow.get("message") or "")
    assert failures["gate.latency", "level"] is None


def test_sarif(mixed: Book) -> None:
    log = json.loads(report.to_sarif(mixed))
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    assert {result["message"]["text"].split()[0] for result in run["results"]} == {"a|slow", "broken:"}
    uris = {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in run["results"]}
    assert uris == {"bench/gate_toy.py"}
    assert {result["ruleId"] for result in run["results"]} <= {rule["id"] for rule in run["tool"]["driver"]["rules"]}


def test_json(mixed: Book) -> None:
    found = json.loads(report.to_json(mixed))
    rows = {row["benchmark"]: row for row in found["rows"]}
    assert found["verdict"] == "FAIL"
    assert rows["a|slow"]["ratio"] == pytest.approx(1.05, rel=1e-3)
    assert rows["new"]["verdict"] is None
    assert rows["new"]["ratio"] is None


@pytest.mark.parametrize("kind", ["mixed", "nothing", "undecided"])
def test_json_is_as_its_schema_says(mixed: Book, kind: str) -> None:
    schema = json.loads(resources.files("pyprod.gate.report").joinpath("verdict.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    books = {
        "mixed": mixed,
        "nothing": book(inventory()),
        "undecided": book(inventory("x"), *samples("x", 1.0, pairs=2)),
    }
    validator.check_schema(schema)
    validator.validate(json.loads(report.to_json(books[kind])))


def test_annotations(mixed: Book) -> None:
    lines = list(report.to_annotations(mixed))
    assert len(lines) == 2
    assert lines[0] == ("::error file=bench/gate_toy.py,title=pyprod gate::a|slow is 5.0%25 slower [5.0, 5.0]")
    undecided = book(inventory("x"), *samples("x", 1.0, pairs=2), LOOK)
    (warning,) = report.to_annotations(undecided)
    assert warning.startswith("::warning title=pyprod gate::UNDECIDED")
    assert "%25" in warning


@pytest.mark.parametrize("name", ["r.md", "r.json", "r.xml", "r.sarif", "r.txt"])
def test_files(mixed: Book, tmp_path: Path, name: str) -> None:
    report.write(mixed, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 100


@pytest.mark.parametrize(("name", "message"), [("r.pdf", "unknown report format"), ("nowhere/r.md", "no folder")])
def test_files_that_can_not_be(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(PyprodError, match=message):
        report.check(tmp_path / name)


def test_the_budget_that_would_decide() -> None:
    noisy = [sample("x", pair, 1000, 1000 * factor) for pair, factor in enumerate((1.04, 0.96, 1.02, 0.98, 1.0, 1.0))]
    found = book(inventory("x"), *noisy, {"kind": "look", "fraction": 0.5})
    assert found.rows["x", LATENCY].open
    assert "would probably decide" in report.to_text(found)
