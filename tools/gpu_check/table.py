"""What a record of ``make gpu-check`` says, as Markdown."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

OURS = "pyprod"


def markdown(folder: Path) -> str:
    """The record's tables: ceilings, checks, and every group of peers by number of rows."""
    parts = [*_ceilings(_read(folder, "ceilings")), *_checks(folder)]
    rows = _read(folder, "benchmark").get("rows", [])
    for group in dict.fromkeys(row["group"] for row in rows):
        parts += ["", *_group([row for row in rows if row["group"] == group])]
    return "\n".join(parts) + "\n"


def worst(rows: Iterable[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Where ours is furthest behind the best peer."""
    return sorted((row for row in rows if not math.isnan(_ratio(row))), key=_ratio)[:count]


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _ceilings(found: Mapping[str, Any]) -> Sequence[str]:
    if "copy_gb_s" not in found:
        return ["Ceilings: not measured."]
    bf16, int8 = found["bf16_tflops"], found["int8_tops"]
    return [
        "| ceiling | measured |",
        "|---|---:|",
        f"| copy, read + write | {found['copy_gb_s']:.0f} GB/s |",
        f"| bfloat16 8192^3, Gaussian (zeros) | {bf16['gaussian']:.0f} ({bf16['zeros']:.0f}) TFLOP/s |",
        f"| cuBLASLt INT8 8192^3, Gaussian (uniform, zeros) | {int8['gaussian']['tops']:.0f} "
        f"({int8['uniform']['tops']:.0f}, {int8['zeros']['tops']:.0f}) TOP/s |",
    ]


def _checks(folder: Path) -> Sequence[str]:
    right, clean = _read(folder, "correctness"), _read(folder, "sanitizer")
    lines = [""]
    if "checked" in right:
        total = sum(right["checked"].values())
        lines.append(f"Correct: {total - len(right['wrong'])} of {total} checks.")
    if "said" in clean:
        lines.append("compute-sanitizer: " + "; ".join(f"{tool}: {said}" for tool, said in clean["said"].items()) + ".")
    return lines


def _group(rows: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    names = list(dict.fromkeys(name for row in rows for name in row["peers"]))
    lines = [
        f"| {rows[0]['group']}: m x n x k | " + " | ".join(f"{name}, µs" for name in names) + " | best peer / ours |",
        "|---|" + "---:|" * (len(names) + 1),
    ]
    for row in sorted(rows, key=lambda row: (row["m"], row["n"], row["k"])):
        cells = [_cell(row["peers"].get(name, {})) for name in names]
        ratio = _ratio(row)
        shown = "" if math.isnan(ratio) else f"{ratio:.2f}"
        lines.append(f"| {row['m']} x {row['n']} x {row['k']} | {' | '.join(cells)} | {shown} |")
    ratios = [r for row in rows if not math.isnan(r := _ratio(row))]
    if ratios:
        lines.append(f"\nGeometric mean {statistics.geometric_mean(ratios):.2f}, worst {min(ratios):.2f}.")
    return lines


def _cell(peer: Mapping[str, Any]) -> str:
    if "error" in peer:
        return "refused"
    if not peer.get("ns"):
        return f"throttled ({peer['throttled']})" if peer.get("throttled") else ""
    note = f" ({peer['throttled']} throttled)" if peer["throttled"] else ""
    return f"{statistics.median(peer['ns']) / 1e3:.1f}{note}"


def _ratio(row: Mapping[str, Any]) -> float:
    """The best peer's time over ours, of medians; NaN where there is none."""
    times = {name: statistics.median(peer["ns"]) for name, peer in row["peers"].items() if peer.get("ns")}
    peers = [time for name, time in times.items() if not name.startswith(OURS)]
    return min(peers) / times[OURS] if OURS in times and peers else math.nan
