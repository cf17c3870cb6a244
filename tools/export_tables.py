"""Tables of the records under ``results/export/``: what faults were found, and how far runtimes are from the model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pyprod.export.ledger import EXACT, FOLDED
from tools.gate_study.tables import rate

FAULTS, ENVIRONMENT = "faults.json", "environment.json"
#: Reports of files that are not held to float32's tolerance; they have tables of their own.
_ROUNDED = ("*.static.onnx.parity.json", "*.native.onnx.parity.json")

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
        "\n".join(lines)
        + f"\n\n*Files of {workloads}, {_machine(folder)}. Located: {located}, by Clopper and Pearson. "
        "The kinds of fault are those that we thought of. "
        f"`python -m tools.export_faults results/export/{folder.name}`; each fault in "
        f"[results/export/{folder.name}](../results/export/{folder.name}).*\n"
    )


def parity(results: Path) -> str:
    """A row per workload and runtime of the newest record."""
    folder = _newest(results, "*.parity.json")
    if folder is None:
        return "*Not measured yet.*\n"
    lines = ["| file | worst step, exact / folded | runtime | real rows, calls | error | random sizes, calls | error |"]
    lines.append("|---|---|---|---:|---:|---:|---:|")
    for path in sorted(set(folder.glob("*.parity.json")) - {p for glob in _ROUNDED for p in folder.glob(glob)}):
        lines += _runtimes(json.loads(path.read_text()))
    command = "pyprod export WORKLOAD --format ... --shapes 500"
    return (
        "\n".join(lines) + f"\n\n*{_machine(folder)}; `{command}`; step by step in "
        f"[results/export/{folder.name}](../results/export/{folder.name}). "
        "The error of a call is its worst output vector's: the L2 norm of the difference over the root mean square "
        "of such norms on real rows.*\n"
    )


def rounded(results: Path) -> str:
    """What a file on our kernels differs by, and what was allowed, of the newest record."""
    folder = _newest(results, "*.native.onnx.parity.json")
    if folder is None:
        return "*Not measured yet.*\n"
    lines = ["| file | runtime | rows | calls | error | allowed |", "|---|---|---|---:|---:|---:|"]
    for path in sorted(folder.glob("*.native.onnx.parity.json")):
        about = json.loads(path.read_text())
        lines += [
            f"| {about['file']} | {row['reader']} | {row['rows']} | {row['calls']} | {row['error']:.1e} "
            f"| {row['tolerance']:.1e} |"
            for row in about["parity"]
        ]
    return (
        "\n".join(lines) + f"\n\n*{_machine(folder)}; `pyprod export encoder --recipe dynamic --format onnx_native`; "
        f"[results/export/{folder.name}](../results/export/{folder.name}).*\n"
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
        f"where {loss['budget']:.1%} is allowed. {_machine(found[-1].parent)}; "
        "what is left out was chosen on the rows that judge. "
        f"`pyprod export {made['metadata']['workload']} --format onnx_static`, "
        f"[results/export/{folder}](../results/export/{folder}).*\n"
    )


def attention(results: Path) -> str:
    """How many attentions of the newest fused file are one node."""
    found = sorted((results / "export").glob("*/encoder.fused.onnx.parity.json"))
    if not found:
        return "*Not measured yet.*\n"
    folder = found[-1].parent
    fused = json.loads(found[-1].read_text())["facts"]["attention"]
    record = f"[results/export/{folder.name}](../results/export/{folder.name})"
    return f"Of the encoder's attentions: {fused} ({_machine(folder)}, {record}).\n"


def _machine(folder: Path) -> str:
    machine = json.loads((folder / ENVIRONMENT).read_text())
    versions = ", ".join(f"{n} {machine['packages'][n]}" for n in ("torch", "onnx", "onnxruntime-gpu", "openvino"))
    return f"{machine['cpu']['model']}, a shared virtual machine; {versions}"


def _worst_steps(made: Mapping[str, Any]) -> str:
    """The largest error of a step: where the file has the model's own constants, and where some are folded."""
    steps = made["ledger"] or []
    by_tolerance = [[float(s["error"]) for s in steps if s["tolerance"] == t] for t in (EXACT, FOLDED)]
    return " / ".join(f"{max(errors):.0e}" if errors else "none" for errors in by_tolerance) if steps else ""


def _runtimes(made: Mapping[str, Any]) -> Iterable[str]:
    by_reader: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in made["parity"]:
        by_reader.setdefault(row["reader"], {})[row["rows"]] = row
    for reader, rows in by_reader.items():
        cells = [f"{rows[kind]['calls']} | {float(rows[kind]['error']):.1e}" for kind in ("real", "random")]
        yield f"| {made['file']} | {_worst_steps(made)} | {reader} | {' | '.join(cells)} |"


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
