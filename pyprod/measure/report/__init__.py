"""Reports: pure functions of measurements. The same input gives the same bytes, whatever the format.

>>> frame = summarize(measurements)
>>> print(to_text(frame, sort="throughput"))
>>> write(measurements, environment, plan, Path("report.html"))
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyprod.measure import store
from pyprod.measure.report.biases import BIASES, HOW_TAKEN
from pyprod.measure.report.columns import COLUMNS, resolve
from pyprod.measure.report.export import to_csv, to_json, to_parquet
from pyprod.measure.report.frame import summarize
from pyprod.measure.report.html import to_html
from pyprod.measure.report.markdown import to_markdown, to_markdown_tables
from pyprod.measure.report.text import to_text
from pyprod.types import Measurement, PyprodError

__all__ = [
    "BIASES",
    "COLUMNS",
    "FORMATS",
    "HOW_TAKEN",
    "render",
    "resolve",
    "summarize",
    "to_csv",
    "to_html",
    "to_json",
    "to_markdown",
    "to_markdown_tables",
    "to_parquet",
    "to_text",
    "write",
]

_Render = Callable[[Sequence[Measurement], Mapping[str, Any], Mapping[str, Any]], str | bytes]

#: By file ending.
FORMATS: dict[str, _Render] = {
    "csv": lambda m, environment, plan: to_csv(summarize(m)),
    "html": to_html,
    "json": lambda m, environment, plan: to_json(m, summarize(m), environment, plan),
    "md": lambda m, environment, plan: to_markdown(summarize(m), environment, plan),
    "parquet": lambda m, environment, plan: to_parquet(summarize(m)),
    "txt": lambda m, environment, plan: to_text(summarize(m)),
}


def render(
    measurements: Sequence[Measurement], environment: Mapping[str, Any], plan: Mapping[str, Any], format: str
) -> bytes:
    """The report as the bytes of a file; text is UTF-8.

    Raises:
        PyprodError: there is no such format; the message suggests near ones.
    """
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(FORMATS)}"
        raise PyprodError(f"unknown report format {format!r}; {hint}")
    out = FORMATS[format](measurements, environment, plan)
    return out if isinstance(out, bytes) else out.encode()


def write(
    measurements: Sequence[Measurement],
    environment: Mapping[str, Any],
    plan: Mapping[str, Any],
    path: Path,
    format: str = "",
) -> None:
    """Write a report atomically: `path` holds the old file or the whole new one, never a half.

    Args:
        format: key of FORMATS; by default the ending of `path`.

    Raises:
        PyprodError: there is no such format, or the file can't be written.
    """
    content = render(measurements, environment, plan, format or path.suffix.lstrip("."))
    try:
        store.write_atomically(path, content)
    except OSError as error:
        raise PyprodError(f"can't write {path}: {error.strerror or error}") from error
