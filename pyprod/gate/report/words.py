"""What all formats say: a row's cells, the sentence of the suite, what to do next."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pyprod.gate.book import ACCURACY, ENERGY, LATENCY, PEAK_MEMORY, SIZE, THROUGHPUT, Book, Row
from pyprod.gate.sides import BASE, HEAD
from pyprod.measure.decide import Verdict

#: For each metric: unit, divisor, and the word for "worse".
UNITS = {
    LATENCY: ("µs", 1e3, "slower"),
    THROUGHPUT: ("/s", 1, "slower over all calls"),
    PEAK_MEMORY: ("MB", 1e6, "more memory"),
    SIZE: ("MB", 1e6, "larger"),
    ACCURACY: ("", 1, "less accurate"),
    ENERGY: ("mJ", 1e-3, "more energy"),
}


class Cells(NamedTuple):
    """A row as text; an empty cell is one that does not apply."""

    benchmark: str
    metric: str
    verdict: str
    base: str
    head: str
    change: str
    interval: str
    detectable: str
    noise: str
    pairs: str
    remark: str


#: Heading of each column.
HEADINGS = Cells(
    "benchmark", "metric", "verdict", "base", "head", "change", "95% interval", "detects", "noise", "pairs", ""
)


def cells(row: Row) -> Cells:
    """The row as text."""
    verdict = str(row.verdict or row.state)
    remark = row.reason or (f"{row.throttled} throttled turns left out" if row.throttled else "")
    decision = row.decision
    if row.state != "measured" or decision is None:
        return Cells(row.benchmark, row.metric, verdict, "", "", "", "", "", "", "", remark)
    unit, divisor, _ = UNITS[row.metric]
    base, head = (f"{_digits(float(np.median(row.values[side])) / divisor)} {unit}".strip() for side in (BASE, HEAD))
    ratio = decision.ratio
    interval = "" if math.isnan(ratio.low) else f"{change(ratio.low)} … {change(ratio.high)}"
    if decision.faster:
        remark = f"better; {remark}" if remark else "better"
    detectable = "" if math.isnan(decision.detectable) else f"{100 * decision.detectable:.1f}%"
    noise = "" if math.isnan(decision.noise) else f"{100 * decision.noise:.2f}%"
    return Cells(
        row.benchmark,
        row.metric,
        verdict,
        base,
        head,
        change(ratio.value),
        interval,
        detectable,
        noise,
        str(ratio.n),
        remark,
    )


def change(ratio: float) -> str:
    """A ratio as signed percent: "+3.1%"."""
    return f"{100 * (ratio - 1):+.1f}%"


def shown(book: Book) -> list[Row]:
    """Rows worth a line: all latencies, and of the other metrics those that did not pass."""
    rows = [row for row in book.told() if row.metric == LATENCY or row.verdict is not Verdict.PASS]
    return sorted(rows, key=lambda row: (_URGENCY.get(str(row.verdict or row.state), 2), row.benchmark, row.metric))


_URGENCY = {"FAIL": 0, "UNDECIDED": 1, "PASS": 3}


def hidden(book: Book) -> str:
    """One line on the rows that `shown` leaves out; empty without any."""
    count: dict[str, int] = {}
    seen = {id(row) for row in shown(book)}
    for row in book.told():
        if id(row) not in seen:
            count[row.metric] = count.get(row.metric, 0) + 1
    return ", ".join(f"{metric} of {n} passed" for metric, n in count.items())


def sentence(book: Book) -> str:
    """The verdict on the suite in one line."""
    rows = [row for row in book.told() if row.verdict]
    of = {verdict: [row for row in rows if row.verdict is verdict] for verdict in Verdict}
    percent = f"{100 * float(book.plan['tolerances'][LATENCY]):g}%"
    if book.interrupted:
        return f"interrupted: {len(of[Verdict.PASS])} of {len(rows)} rows had passed, {len(of[Verdict.FAIL])} failed"
    match book.verdict:
        case Verdict.FAIL:
            worst = of[Verdict.FAIL]
            return f"FAIL: {len(worst)} of {len(rows)} rows: {'; '.join(map(complaint, worst[:3]))}{_more(worst[3:])}"
        case Verdict.UNDECIDED:
            need = longest_need(book)
            hint = f"; --budget {need:.0f}s would probably decide" if need else ""
            return f"UNDECIDED: {len(of[Verdict.UNDECIDED])} of {len(rows)} rows are too noisy for {percent}{hint}"
        case Verdict.PASS:
            return f"PASS: none of {len(rows)} rows is worse than allowed ({percent} of latency)"
        case _:
            return "nothing was compared: BASE can run none of HEAD's benchmarks"


def complaint(row: Row) -> str:
    """Why a row fails: "int8_gemm is 3.1% slower [2.8, 3.4]". Of a throughput, the ratio is that of times per call."""
    if row.state != "measured" or row.decision is None:
        return f"{row.benchmark}: {row.reason}"
    ratio, (_, _, worse) = row.decision.ratio, UNITS[row.metric]
    low, value, high = (100 * (r - 1) for r in (ratio.low, ratio.value, ratio.high))
    interval = f" [{low:.1f}, {high:.1f}]" if ratio.n > 1 else ""
    return f"{row.benchmark} is {value:.1f}% {worse}{interval}"


def longest_need(book: Book) -> float:
    """Seconds of budget that would decide the noisiest row if it stays as it is; 0 when that can't be said.

    Its interval must shrink until it leaves out the tolerance, or twice as far where the estimate is above it: to fail,
    it is shown to be slower beside all other rows. It does by the root of the pairs.
    """
    budget = float(book.plan["settings"]["budget_s"])
    needs = []
    for row in book.rows.values():
        if not row.open:
            continue
        if row.decision is None or math.isnan(row.decision.detectable):
            return 0.0
        limit, found = math.log1p(float(book.plan["tolerances"][row.metric])), row.decision.ratio
        reach, value = math.log(found.high / found.low) / 2, math.log(found.value)
        distance = value / 2 if value > limit else limit - value
        few = int(book.plan["rule"]["min_pairs"]) / row.decision.ratio.n
        needs.append(budget * max((reach / max(distance, 1e-3)) ** 2, 1.2, 1.2 * few))
    return min(max(needs, default=0.0), 3600.0)


def note(book: Book) -> str:
    """What limits the whole comparison; empty where nothing does."""
    return "; ".join(filter(None, (str(book.plan.get("note", "")), *book.biases)))


def title(book: Book) -> str:
    """What was compared: "main (1a2b3c4) against WORKTREE (5d6e7f8 + 2 changed)"."""
    return f"{book.plan.get('head', {}).get('label', 'HEAD')} against {book.plan.get('base', {}).get('label', 'BASE')}"


def _more(rows: list[Row]) -> str:
    return f"; and {len(rows)} more" if rows else ""


def _digits(value: float) -> str:
    """Three significant digits, no exponent."""
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{decimals}f}"
