"""For a pull request's comment or a job summary."""

from __future__ import annotations

from pyprod.gate.book import Book
from pyprod.gate.report import words

_MARKS = {"FAIL": "❌ FAIL", "UNDECIDED": "❔ UNDECIDED", "PASS": "✅ PASS"}


def to_markdown(book: Book) -> str:
    """The sentence, the table, and how it was measured."""
    lines = [f"### pyprod gate: {_MARKS.get(str(book.verdict), 'nothing compared')}", ""]
    lines += [f"{words.title(book)}. {words.sentence(book)}", ""]
    lines += [f"*Note: {words.note(book)}.*", ""] if words.note(book) else []
    lines.append(table(book))
    if hidden := words.hidden(book):
        lines += ["", hidden]
    return "\n".join([*lines, "", how(book)]) + "\n"


def table(book: Book) -> str:
    """The rows that are worth a line."""
    headings = [heading or "remark" for heading in words.HEADINGS]
    lines = [f"| {' | '.join(headings)} |", "|---|---|---|" + "---:|" * (len(headings) - 4) + "---|"]
    for row in words.shown(book):
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in words.cells(row))} |")
    return "\n".join(lines)


def how(book: Book) -> str:
    """One paragraph: what the columns mean, where it was measured and how to check it."""
    plan = book.plan
    machine = plan.get("environment", {}).get("cpu", {}).get("model") or "an unknown CPU"
    settings = plan["settings"]
    return (
        "Change: HEAD over BASE, trimmed mean over pairs of fresh processes. Detects: the least slowdown that would "
        "fail 9 times in 10 with this noise. Noise: standard deviation between pairs. Measured on "
        f"{machine}, {settings['threads']} thread(s), budget {settings['budget_s']:g} s, seed {settings['seed']}; "
        f"risk of a false alarm in the suite {100 * plan['rule']['alpha']:g}%."
    )
