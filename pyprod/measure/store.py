"""Records: a folder per run, append-only. What was measured is on disk the moment it was measured.

``environment.json`` (the machine), ``plan.json`` (what was asked for), ``measurements.jsonl`` (a Measurement a line).
A reader takes every whole line and names what it can't read; a writer never changes a line that is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pyprod.types import Measurement, PyprodError

ENVIRONMENT = "environment.json"
PLAN = "plan.json"
MEASUREMENTS = "measurements.jsonl"


@dataclass(frozen=True)
class Record:
    """What a record holds.

    Attributes:
        warnings: one line for each thing that could not be read, naming the file and line.
    """

    path: Path
    environment: Mapping[str, Any]
    plan: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...]


def create(root: Path, name: str, environment: Mapping[str, Any], plan: Mapping[str, Any]) -> Path:
    """Make the folder of a new record, ``root/name`` or, where that is taken, ``root/name-2``, ``-3`` ..."""
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = root / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            break
    write_atomically(path / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")
    write_atomically(path / PLAN, json.dumps(plan, indent=1) + "\n")
    return path


def read(path: Path) -> Record:
    """Read a record, whole or half-written.

    Raises:
        PyprodError: the folder is no record, or its environment or plan can't be read.
    """
    if not (path / PLAN).is_file():
        raise PyprodError(f"{path} is not a record: it has no {PLAN}")
    measurements, warnings = [], []
    for number, line in enumerate(_lines(path / MEASUREMENTS), 1):
        try:
            measurements.append(Measurement.from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.append(f"{path / MEASUREMENTS}:{number}: skipped, not a measurement ({error})")
    return Record(path, _object(path / ENVIRONMENT), _object(path / PLAN), tuple(measurements), tuple(warnings))


class Writer:
    """Appends measurements to a record; one writer at a time.

    Raises:
        PyprodError: another process is writing this record, or (from `append`) the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path / MEASUREMENTS
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise PyprodError(f"another run is writing {path}: wait for it, or choose another --out") from error
        self._end_half_written_line()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        os.close(self._fd)

    def append(self, measurement: Measurement) -> None:
        """Write one line whole, or not at all."""
        try:
            append_line(self._fd, measurement.to_json())
        except OSError as error:
            raise PyprodError(
                f"can't write {self._path}: {error}; what was measured before is safe: make room, then --resume it"
            ) from error

    def _end_half_written_line(self) -> None:
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")


def append_line(fd: int, value: Mapping[str, Any]) -> None:
    """Append one line of JSON to an open file, whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    line = json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    end = os.lseek(fd, 0, os.SEEK_END)
    try:
        written = os.write(fd, line)
        if written < len(line):
            raise OSError(f"only {written} of {len(line)} bytes written")
    except OSError:
        os.ftruncate(fd, end)
        raise


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write a file under a temporary name beside its own, then rename: readers see the old one or the new one."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
        Path(temporary).chmod(0o644)  # mkstemp makes it private
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _lines(path: Path) -> Iterator[bytes]:
    if path.is_file():
        yield from path.read_bytes().splitlines()


def _object(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PyprodError(f"can't read {path}: {error}") from error
    if not isinstance(value, dict):
        raise PyprodError(f"can't read {path}: want a JSON object, got {type(value).__name__}")
    return value
