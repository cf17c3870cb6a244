"""The file that a gate leaves: every event, on disk the moment it happened. Who doubts a verdict takes it again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyprod.gate.book import Book
from pyprod.measure import store
from pyprod.types import PyprodError

NAME = "evidence.jsonl"
#: Of this layout of events: a reader refuses others.
FORMAT = 2


class Writer:
    """Appends events to a new file and feeds them to its `book`.

    Raises:
        PyprodError: (from `record`) the disk is full; the file ends with the last whole event.
    """

    def __init__(self, path: Path, book: Book) -> None:
        self._path, self.book = path, book
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def record(self, kind: str, **fields: Any) -> None:
        """Write one event, whole or not at all, then feed it."""
        event = {"kind": kind, **fields}
        try:
            store.append_line(self._fd, event)
        except OSError as error:
            raise PyprodError(f"can't write {self._path}: {error}; the evidence up to here is kept") from error
        self.book.feed(event)


def read(path: Path) -> Iterator[Mapping[str, Any]]:
    """The events of a file, or of the folder that holds one.

    Raises:
        PyprodError: there is none, a line is damaged, or another format was written.
    """
    path = path / NAME if path.is_dir() else path
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise PyprodError(f"can't read evidence {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            kind, form = event["kind"], event.get("format")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PyprodError(f"{path}:{number} is damaged ({error}): no verdict is taken from it") from error
        if number == 1 and (kind != "plan" or form != FORMAT):
            raise PyprodError(f"{path} is no evidence of format {FORMAT}: it begins with {kind!r}, format {form}")
        yield event


def replay(path: Path) -> Book:
    """Come to the verdict again from the raw samples.

    Raises:
        PyprodError: the evidence can't be read, or gives another verdict than the one that was said.
    """
    book, said = Book(), None
    for event in read(path):
        book.feed(event)
        if event["kind"] == "verdict":
            said = event
    if said is not None and (found := summary(book)) != {key: said[key] for key in found}:
        raise PyprodError(f"{path} gives {found['verdict']}, but the gate had said {said['verdict']}: one was altered")
    return book


def summary(book: Book) -> dict[str, Any]:
    """What the gate says at its end: the suite's verdict and each row's."""
    rows = [[row.benchmark, row.metric, row.verdict] for row in book.rows.values()]
    return {"verdict": book.verdict, "rows": rows}
