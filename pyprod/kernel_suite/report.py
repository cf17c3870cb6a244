"""What the suite found, as tables: by number of rows, by peer, and where we do worst. Text and Markdown agree."""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pyprod.kernel_suite import problems
from pyprod.kernel_suite.frame import FAMILIES, mean_ratio, steps, summarize
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


_STYLE = """body{font:14px/1.5 system-ui,sans-serif;max-width:75em;margin:2em auto;color-scheme:light dark}
table{border-collapse:collapse}th,td{padding:.15em .8em;text-align:right;border-bottom:1px solid #8884}
th:first-child,td:first-child{text-align:left}h2{font-size:1rem;margin:2em 0 .5em}p{max-width:60em}"""


class Table(NamedTuple):
    """Cells as they are shown; the first column is aligned left."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tables(frame: pd.DataFrame) -> Iterator[Table]:
    """All tables that have rows: a summary, three or four for each kind and number of threads, the steps."""
    return (table for table in _tables(frame) if table.rows)


def summary(frame: pd.DataFrame) -> Table:
    """A line for each kind and number of threads."""
    rows = []
    against = frame[frame["ours"] & ~frame["kind"].map(_is_ladder)]
    for (kind, threads), part in against.groupby(["kind", "threads"]):
        known = part.dropna(subset=["ratio"])
        if len(known):
            worst = known.nsmallest(1, "ratio").iloc[0]
            faster = f"{int((known['ratio'] > 1).sum())} of {len(known)}"
            where = f"{worst['ratio']:.2f} (M={worst['rows']} {worst['layer']})"
            share = _percent(part["roofline_share"].median())
            rows.append((str(kind), str(threads), _estimate(mean_ratio(known)), faster, where, share))
    headings = ("", "threads", "geometric mean", "faster", "worst", "median roofline")
    return Table("pyprod against the best peer of each problem", headings, rows)


def _tables(frame: pd.DataFrame) -> Iterator[Table]:
    yield summary(frame)
    for (kind, threads), part in frame.groupby(["kind", "threads"]):
        ours = part[part["ours"] & part["status"].eq("ok")]
        where = f"{kind}, {digits.count(int(str(threads)), 'thread')}"
        if _is_ladder(str(kind)):
            yield from (_ladder(f"{where}, {layer}", group) for layer, group in part.groupby("layer", sort=False))
            continue
        yield _by_rows(f"{where}: pyprod against the best peer of each problem; {_aa(ours)}", ours)
        yield _by_peer(f"{where}: each peer against the best peer of each problem", part)
        if (part["family"] != "").any():
            yield _by_layer(f"{where}: each layer, time of the best peer / pyprod's", ours)
        yield _worst(f"{where}: where pyprod does worst", ours)
    yield _steps("linear: where a row costs pyprod more when there are more rows", frame)


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


def _by_layer(title: str, ours: pd.DataFrame) -> Table:
    batches = sorted(ours["rows"].unique())
    found = []
    for (family, layer), part in ours.groupby(["family", "layer"]):
        ratio = part.set_index("rows")["ratio"]
        cells = (f"{ratio[rows]:.2f}" if rows in ratio else "" for rows in batches)
        found.append((list(FAMILIES).index(str(family)), (f"{family} {layer}", *cells)))
    found.sort(key=lambda line: line[0])
    return Table(title, ("N x K", *(f"M={rows}" for rows in batches)), [line for _, line in found])


def _is_ladder(kind: str) -> bool:
    return hasattr(problems.module(kind), "RUNGS")


def _ladder(title: str, part: pd.DataFrame) -> Table:
    """One layer: a line for each rung, a column for each number of rows."""
    batches = sorted(part["rows"].unique())
    time = part.dropna(subset=["time_us"]).set_index(["peer", "rows"])["time_us"].to_dict()
    before: dict[int, float] = {}
    lines = []
    for peer in (rung for rung in problems.module(str(part["kind"].iloc[0])).RUNGS if part["peer"].eq(rung).any()):
        cells = []
        for rows in batches:
            taken = time.get((peer, rows), math.nan)
            gain = f" ({digits.speedup(before[rows] / taken)})" if rows in before and taken == taken else ""
            cells.append(f"{digits.number(taken)}{gain}")
            before |= {rows: taken} if taken == taken else {}
        lines.append((peer, *cells))
    headings = ("µs, and how much faster than the rung before", *(f"M = {rows}" for rows in batches))
    return Table(f"{title}: what each step brings", headings, lines)


def _steps(title: str, frame: pd.DataFrame) -> Table:
    found = steps(frame)
    dearer = found[found["step"] > 1].nlargest(WORST, "step")
    rows = [
        (str(row["problem"]), str(row["threads"]), f"{row['before']} to {row['after']}", f"{row['step'] - 1:+.0%}")
        for _, row in dearer.iterrows()
    ]
    return Table(title, ("", "threads", "M", "time per row"), rows)


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
        if titles and not table.title.startswith(tuple(titles)):
            continue
        lines += [f"**{_inline(table.title)}**", "", _line(table.headings)]
        lines += [_line([":---", *["---:"] * (len(table.headings) - 1)]), *map(_line, table.rows), ""]
    return "\n".join([*lines, *(f"{line}  " for line in LEGEND), ""])


def to_html(frame: pd.DataFrame, environment: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """One page that needs no network."""
    head = [*facts.headline(environment), ("Command", facts.command(plan))]
    body = ["<h1>Kernels against their peers</h1>", *(f"<p>{name}: {html.escape(value)}</p>" for name, value in head)]
    for table in tables(frame):
        cells = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in table.rows)
        headings = "".join(f"<th>{html.escape(heading)}</th>" for heading in table.headings)
        body.append(f"<h2>{html.escape(table.title)}</h2>")
        body.append(f"<table><thead><tr>{headings}</tr></thead><tbody>{cells}</tbody></table>")
    body += [f"<p>{html.escape(line)}</p>" for line in LEGEND]
    top = f'<meta charset="utf-8"><title>pyprod: kernels</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{top}</head><body>{"".join(body)}</body></html>\n'


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_inline, cells))} |"


def _inline(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_").replace("[", "\\[").replace("]", "\\]").replace("*", "\\*")


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
    "html": to_html,
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
