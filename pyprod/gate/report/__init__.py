"""What a gate has found, for people and for machines. Pure functions of a book: a replay gives the same bytes.

A file per format; `write` goes by the file's ending.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyprod import discover
from pyprod.gate.book import Book
from pyprod.gate.report.github import to_annotations
from pyprod.gate.report.jsonfile import to_json
from pyprod.gate.report.junit import to_junit
from pyprod.gate.report.markdown import to_markdown
from pyprod.gate.report.sarif import to_sarif
from pyprod.gate.report.text import to_text
from pyprod.measure import store
from pyprod.types import PyprodError

__all__ = ["FORMATS", "check", "to_annotations", "to_json", "to_junit", "to_markdown", "to_sarif", "to_text", "write"]

#: By file ending.
FORMATS: dict[str, Callable[[Book], str]] = {
    "json": to_json,
    "md": to_markdown,
    "sarif": to_sarif,
    "txt": to_text,
    "xml": to_junit,
}


def check(path: Path) -> None:
    """Refuse a file whose ending names no format: before a minute of measuring, not after.

    Raises:
        PyprodError: there is no such format, or no such folder.
    """
    if (ending := path.suffix.lstrip(".")) not in FORMATS:
        raise PyprodError(f"{path}: {discover.unknown('report format', ending, FORMATS)}")
    if not path.parent.is_dir():
        raise PyprodError(f"{path}: there is no folder {path.parent}")


def write(book: Book, path: Path) -> None:
    """Write a report atomically.

    Raises:
        PyprodError: it can't be written.
    """
    check(path)
    try:
        store.write_atomically(path, FORMATS[path.suffix.lstrip(".")](book))
    except OSError as error:
        raise PyprodError(f"can't write {path}: {error.strerror or error}") from error
