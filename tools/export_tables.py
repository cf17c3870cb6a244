"""Tables of the records under ``results/export/``: what faults were found, and how far runtimes are from the model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tools.gate_study.tables import rate

FAULTS, ENVIRONMENT = "faults.json", "environment.json"
_SHOWN = 12  # of the roundings left out


def faults(results: Path) -> str:
    """A row per kind of fault of the newest study."""
    folder = _newest(results, FAULTS)
    if folder is None:
        return "*Not measured yet.*\n"
    rows = json.loads((folder / FAULTS).read_text())["faults"]
    kinds = list(dict.fromkeys(row["fault"] for row in rows))
    lines = ["| fault | put in | found | and located | outputs off by 1e-5 | by 1e-3 |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, group in [(k, [r for r in rows if r["fault"] == k]) for k in kinds] + [("**all**", rows)]:
        counts = [sum(found(row) for row in group) for found in _QUESTIONS]
        lines.append(f"| {name.replace('_', ' ')} | {len(group)} | " + " | ".join(map(str, counts)) + " |")
    located = rate(sum(row["located"] for row in rows), len(rows))
    workloads = ", ".join(sorted({row["workload"] for row in rows}))
    return (
        "\n".join(lines) + f"\n\n*Files of {workloads}. Located: {located}, by Clopper and Pearson. "
        f"`python -m tools.export_faults results/export/{folder.name}`; each fault in "
        f"[results/export/{folder.name}](../results/export/{folder.name}).*\n"
    )


def parity(results: Path) -> str:
    """A row per workload and runtime of the newest record."""
    folder = _newest(results, "*.parity.json")
    if folder is None:
        return "*Not measured yet.*\n"
    lines = ["| file | runtime | real rows, calls | error | random sizes, calls | error |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for path in sorted(set(folder.glob("*.parity.json")) - set(folder.glob("*.static.onnx.parity.json"))):
        lines += _runtimes(json.loads(path.read_text()))
    machine = json.loads((folder / ENVIRONMENT).read_text())
    versions = ", ".join(f"{n} {machine['packages'][n]}" for n in ("torch", "onnx", "onnxruntime-gpu", "openvino"))
    command = "pyprod export WORKLOAD --format ... --shapes 500"
    return (
        "\n".join(lines) + f"\n\n*{machine['cpu']['model']}; {versions}; `{command}`; step by step in "
        f"[results/export/{folder.name}](../results/export/{folder.name}). "
        "The error of a call is its worst output vector's: the L2 norm of the difference over the root mean square "
        "of such norms on real rows.*\n"
    )


def static(results: Path) -> str:
    """What all roundings cost, and which ones had to go, of the newest record."""
    found = sorted((results / "export").glob("*/*.static.onnx.parity.json"))
    if not found:
        return "*Not measured yet.*\n"
    made = json.loads(found[-1].read_text())
    facts = made["facts"]
    loss, out = facts["loss"], facts["left_out"]
    lines = ["| left out, worst first | in | value of the file | alone, output off by |", "|---|---|---|---:|"]
    for rounding in out[:_SHOWN]:
        name = f"`{rounding['step']}` | {rounding['module']} | `{rounding['tensor']}`"
        lines.append(f"| {name} | {rounding['error']:.1%} |")
    folder = found[-1].parent.name
    return (
        "\n".join(lines)
        + f"\n\n*{made['file']}: all {facts['roundings']} roundings lose {loss['all_roundings']:.1%} of the "
        f"metric; without these {len(out)} (of which {min(_SHOWN, len(out))} are shown) {loss['without_these']:.2%}, "
        f"where {loss['budget']:.1%} is allowed. `pyprod export {made['metadata']['workload']} --format onnx_static`, "
        f"[results/export/{folder}](../results/export/{folder}).*\n"
    )


def _runtimes(made: Mapping[str, Any]) -> Iterable[str]:
    by_reader: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in made["parity"]:
        by_reader.setdefault(row["reader"], {})[row["rows"]] = row
    for reader, rows in by_reader.items():
        cells = [f"{rows[kind]['calls']} | {float(rows[kind]['error']):.1e}" for kind in ("real", "random")]
        yield f"| {made['file']} | {reader} | {' | '.join(cells)} |"


def _newest(results: Path, pattern: str) -> Path | None:
    found = sorted((results / "export").glob(f"*/{pattern}"))
    return found[-1].parent if found else None


def _beyond(tolerance: float) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: not float(row["output_error"]) <= tolerance or math.isnan(float(row["output_error"]))


_QUESTIONS: tuple[Callable[[Mapping[str, Any]], bool], ...] = (
    lambda row: row["caught"],
    lambda row: row["located"],
    _beyond(1e-5),
    _beyond(1e-3),
)
