"""Lines that GitHub Actions turns into annotations of a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from pyprod.gate.book import Book
from pyprod.gate.report import words
from pyprod.measure.decide import Verdict


def to_annotations(book: Book) -> Iterator[str]:
    """An error for each row that failed, one warning when rows are undecided."""
    for row in book.told():
        if row.verdict is Verdict.FAIL:
            file = book.files.get(row.benchmark, "")
            place = f"file={_property(file)}," if file else ""
            yield f"::error {place}title=pyprod gate::{_data(words.complaint(row))}"
    if book.verdict is Verdict.UNDECIDED:
        yield f"::warning title=pyprod gate::{_data(words.sentence(book))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
