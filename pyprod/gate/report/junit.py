"""JUnit XML, which every CI system reads: a test case per row."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from pyprod.gate.book import Book
from pyprod.gate.report import words
from pyprod.measure.decide import Verdict


def to_junit(book: Book) -> str:
    """FAIL is a failure; UNDECIDED and what could not be compared are skipped, with the reason."""
    suite = ET.Element("testsuite", name="pyprod gate")
    rows = book.told()
    failed = sum(row.verdict is Verdict.FAIL for row in rows)
    skipped = sum(row.verdict not in (Verdict.FAIL, Verdict.PASS) for row in rows)
    suite.attrib |= {"tests": str(len(rows)), "failures": str(failed), "errors": "0", "skipped": str(skipped)}
    for row in rows:
        case = ET.SubElement(suite, "testcase", classname=f"gate.{row.metric}", name=row.benchmark)
        if row.verdict is Verdict.FAIL:
            ET.SubElement(case, "failure", message=words.complaint(row), type=row.metric)
        elif row.verdict is not Verdict.PASS:
            ET.SubElement(case, "skipped", message=row.reason or "undecided: too noisy for its budget")
        ET.SubElement(case, "system-out").text = " ".join(filter(None, words.cells(row)))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
