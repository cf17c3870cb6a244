"""What the suite found, as tables: by number of rows, by peer, and where we do worst. Text and Markdown agree."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pyprod.kernel_suite.frame import mean_ratio, summarize
from pyprod.measure import statistics, store
from pyprod.measure.report import digits, facts
from pyprod.measure.statistics import Estimate
from pyprod.types import Measurement, PyprodError

#: Problems shown where we do worst, per kind and number of threads.
WORST = 8
#: Characters per line of the text.
WIDTH = 100
LEGEND = (
    "Ratio: time of the fastest peer of that very problem / our time, from medians paired by round; above 1 no peer is "
    "as fast. [95% interval]; of a geometric mean: from those of its problems, not of other problems.",
    "Roofline: the least time that this machine's measured int8 peak and bandwidth allow / the time taken. Weights and "
    "rows are hot, as far as the caches hold them. Choosing the fastest peer afterwards favors the peers.",
    "A/A: our kernel in a second process / in the first: what is closer to 1 than this is noise.",
)


class Table(NamedTuple):
    """Cells as they are shown; the first column is aligned left."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tables(frame: pd.DataFrame) -> Iterator[Table]:
    """Three tables for each kind and number of threads."""
    for (kind, threads), part in frame.groupby(["kind", "threads"]):
        ours = part[part["ours"] & part["status"].eq("ok")]
        where = f"{kind}, {digits.count(threads, 'thread')}"
        yield _by_rows(f"{where}: pyprod against the best peer of each problem; {_aa(ours)}", ours)
        yield _by_peer(f"{where}: each peer against the best peer of each problem", part)
        yield _worst(f"{where}: where pyprod does worst", ours)


def _by_rows(title: str, ours: pd.DataFrame) -> Table:
    groups = [(f"M = {rows}", part) for rows, part in ours.groupby("rows")]
    rows = []
    for name, part in [*groups, ("all", ours)]:
        known = part.dropna(subset=["ratio"])
        faster = f"{int((known['ratio'] > 1).sum())} of {len(known)}"
        worst = _number(known["ratio"].min()) if len(known) else "–"
        share = _percent(part["roofline_share"].median())
        rows.append((name, _estimate(mean_ratio(known)), worst, faster, share, _rate(part)))
    headings = ("", "geometric mean", "worst", "faster", "median roofline", "best GOP/s")
    return Table(title, headings, rows)


def _by_peer(title: str, part: pd.DataFrame) -> Table:
    found = []
    for peer, group in part.groupby("peer"):
        ok = group[group["status"].eq("ok")]
        others = group.loc[group["status"].ne("ok"), "status"].value_counts()
        missing = ", ".join(f"{count} {status}" for status, count in others.items())
        found.append((mean_ratio(ok), (str(peer), str(int(ok["ratio"].notna().sum())), missing or "–")))
    found.sort(key=lambda item: -np.nan_to_num(item[0].value))
    rows = [(name, _estimate(mean), count, missing) for mean, (name, count, missing) in found]
    return Table(title, ("", "geometric mean", "problems", "without a number"), rows)


def _worst(title: str, ours: pd.DataFrame) -> Table:
    rows = [
        (
            f"{row['problem']} M = {row['rows']}",
            _estimate(Estimate(row["ratio"], row["ratio_low"], row["ratio_high"], 0)),
            f"{row['time_us']:.4g}",
            str(row["best_peer"]),
            _percent(row["roofline_share"]),
        )
        for _, row in ours.dropna(subset=["ratio"]).nsmallest(WORST, "ratio").iterrows()
    ]
    return Table(title, ("", "ratio", "µs", "best peer", "roofline"), rows)


def _aa(ours: pd.DataFrame) -> str:
    found = ours["aa_ratio"].dropna()
    if not len(found):
        return "A/A unchecked"
    low, middle, high = np.percentile(found, [5, 50, 95])
    within = float(found.map(statistics.trustworthy).mean())
    return f"A/A {middle:.3f} (5–95%: {low:.3f}–{high:.3f}, {within:.0%} trustworthy)"


def _rate(part: pd.DataFrame) -> str:
    return f"{part['gops'].max():.0f}" if part["gops"].notna().any() else "–"


def _number(value: float) -> str:
    return f"{value:.3f}" if value == value else "–"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share == share else "–"


def _estimate(estimate: Estimate) -> str:
    if estimate.value != estimate.value:
        return "–"
    interval = f" [{estimate.low:.3f}, {estimate.high:.3f}]" if estimate.low == estimate.low else ""
    return f"{estimate.value:.3f}{interval}"


def to_text(frame: pd.DataFrame) -> str:
    """For a terminal of `WIDTH` columns."""
    if not len(frame):
        return "nothing was measured\n"
    lines: list[str] = []
    for table in tables(frame):
        if not table.rows:
            continue
        widths = [max(map(len, column)) for column in zip(table.headings, *table.rows, strict=True)]
        lines += textwrap.wrap(table.title, WIDTH)
        for row in (table.headings, *table.rows):
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            lines.append(("  " + "  ".join(cells))[:WIDTH].rstrip())
        lines.append("")
    for line in LEGEND:
        lines += textwrap.wrap(line, WIDTH)
    return "\n".join(lines) + "\n"


def to_markdown(frame: pd.DataFrame, environment: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """A whole document."""
    lines = ["# Kernels against their peers", ""]
    lines += [f"- {name}: {_inline(value)}" for name, value in facts.headline(environment)]
    if typed := facts.command(plan):
        lines += [f"- Command: `{typed}`"]
    lines += ["", to_markdown_tables(frame)]
    return "\n".join(lines)


def to_markdown_tables(frame: pd.DataFrame, titles: Sequence[str] = ()) -> str:
    """The tables and the legend alone; with `titles`, only tables whose title starts with one of them."""
    lines: list[str] = []
    for table in tables(frame):
        if titles and not any(table.title.startswith(title) for title in titles):
            continue
        lines += [f"**{table.title}**", "", _line(table.headings)]
        lines += [_line([":---", *["---:"] * (len(table.headings) - 1)]), *map(_line, table.rows), ""]
    return "\n".join([*lines, *(f"{line}  " for line in LEGEND), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_inline, cells))} |"


def _inline(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_").replace("[", "\\[").replace("]", "\\]")


def to_json(frame: pd.DataFrame) -> str:
    """The rows, and the geometric means by kind, threads and rows."""
    rows = json.loads(frame.to_json(orient="records"))
    means = []
    for (kind, _), part in frame[frame["ours"]].groupby(["kind", "threads"]):
        for batch, group in [(None, part), *((group["rows"].iloc[0], group) for _, group in part.groupby("rows"))]:
            mean = mean_ratio(group)
            known = {name: v if (v := getattr(mean, name)) == v else None for name in ("value", "low", "high")}
            rows_ = None if batch is None else int(batch)
            means.append({"kind": kind, "threads": int(part["threads"].iloc[0]), "rows": rows_, "n": mean.n, **known})
    return json.dumps({"rows": rows, "geometric_means": means}, indent=1) + "\n"


_Render = Callable[[pd.DataFrame, Mapping[str, Any], Mapping[str, Any]], str]
#: By file ending.
FORMATS: dict[str, _Render] = {
    "csv": lambda frame, environment, plan: str(frame.to_csv(index=False)),
    "json": lambda frame, environment, plan: to_json(frame),
    "md": to_markdown,
    "txt": lambda frame, environment, plan: to_text(frame),
}


def write(
    measurements: Sequence[Measurement],
    environment: Mapping[str, Any],
    plan: Mapping[str, Any],
    path: Path,
    format: str = "",
) -> None:
    """Write a report atomically, in the format that the ending of `path` says unless told.

    Raises:
        PyprodError: the suite has no report of that format.
    """
    format = format or path.suffix.lstrip(".")
    if format not in FORMATS:
        raise PyprodError(f"the kernel suite has no report {format!r}; there are: {', '.join(FORMATS)}")
    store.write_atomically(path, FORMATS[format](summarize(measurements, environment), environment, plan))
