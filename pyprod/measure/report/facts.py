"""An environment or a plan (nested JSON values of any shape) as lines that a reader can scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyprod.measure.report import digits

#: Longer lists of plain values (CPU flags) are one joined value.
_SHORT_LIST = 4


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted paths and texts of all leaves, in the order given; an absent value is a dash."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flatten(item, f"{path}.{key}" if path else str(key))
    elif _is_list(value) and any(isinstance(item, Mapping) or _is_list(item) for item in value):
        for index, item in enumerate(value):
            yield from flatten(item, f"{path}[{index}]")
    elif _is_list(value) or isinstance(value, Mapping):
        yield path, (" " if len(value) > _SHORT_LIST else ", ").join(map(_text, value)) or "none"
    else:
        yield path, _text(value)


def headline(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few facts that belong on top of a report: machine, torch, commit, date; those that are there."""
    facts = dict(flatten(environment))
    cpu = next((facts[p] for p in facts if p.startswith("cpu") and p.rpartition(".")[2] in ("model", "name")), "")
    gpu = next((facts[p] for p in facts if p.startswith("gpu") and p.rpartition(".")[2] in ("model", "name")), "")
    torch = next((facts[p] for p in facts if p.rpartition(".")[2] == "torch"), "")
    dirty = " + uncommitted changes" if facts.get("commit.dirty") == "yes" else ""
    revision = facts.get("commit.revision", digits.MISSING)
    commit = "" if revision == digits.MISSING else revision[:10] + dirty
    date = str(environment.get("date") or "")
    found = [("CPU", cpu), ("GPU", gpu), ("torch", torch), ("Commit", commit), ("Date", date)]
    return [(name, value) for name, value in found if value]


def command(plan: Mapping[str, Any]) -> str:
    """The command that made the record, as it was typed; empty when the record does not say."""
    typed = plan.get("command") or ""
    return " ".join(map(str, typed)) if _is_list(typed) else str(typed)


def settings(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How it was measured: the plan without the command, and without the candidates, which the tables show."""
    return list(flatten({key: value for key, value in plan.items() if key not in ("command", "candidates")}))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _text(value: Any) -> str:
    if value is None or value == "":
        return digits.MISSING
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
