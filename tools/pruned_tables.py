"""What smaller models of the records under ``results/forms/`` gain over the same backend's whole one, and lose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from pyprod.measure import contrast, store
from pyprod.measure.contrast import Aspect, Contrast
from pyprod.types import Candidate, Measurement
from tools.forms_tables import newest

_STEPS = {"structured", "layers"}
_BACKENDS = ("eager.fp32", "onnxruntime.fp32", "openvino.fp32", "native.int8")
_BASELINE = "base/eager.fp32"
_MARGIN = 0.005

_HEAD = (
    "| workload, batch | form | operations | faster than the whole | A/A | metric, change | loses less than 0.005 |\n"
    "|---|---|---:|---|---:|---|---|"
)


def table(results: Path) -> str:
    """A row for each smaller model, batch and backend."""
    rows = [row for _, folder in sorted(newest(results).items()) for row in _rows(folder)]
    if not rows:
        return "*Not measured yet.*\n"
    caption = (
        "*Operations: multiply-accumulates left. Faster: ratio of medians paired by round, 95% interval; of the model "
        "that the recipe began with, in the same backend. The last column: yes where the whole 95% interval of the "
        "change lies above -0.005 (a test of non-inferiority), no where it lies below. Records in "
        "[results/forms](../results/forms).*"
    )
    return "\n".join([_HEAD, *rows, "", caption, ""])


def _rows(folder: Path) -> Iterator[str]:
    record, about = store.read(folder), json.loads((folder / "choice.json").read_text())
    measured = {_form(m) for m in record.measurements if m.metric == "latency"}
    for name, steps in about["recipes"].items():
        if not _STEPS & {step["step"] for step in steps}:
            continue
        for backend in _BACKENDS:
            forms = f"{name}/{backend}", f"base/{backend}"
            if measured.issuperset(forms):
                about_them = [m for m in record.measurements if _form(m) in {*forms, _BASELINE}]  # all take 20 s
                yield from map(_row, contrast.contrast(about_them, *forms))


def _form(measurement: Measurement) -> str:
    return f"{measurement.candidate.recipe}/{measurement.candidate.backend}"


def _row(found: Contrast) -> str:
    aspects = {aspect.name: aspect for aspect in found.aspects}
    candidate = Candidate.from_id(found.first)
    speed = aspects["latency"].effect
    left = next((m[1] for note in found.notes[0] if (m := re.match(r"(\d+%) of the multiply-acc", note))), "")
    return (
        f"| {candidate.workload}, {candidate.batch} | `{candidate.recipe}/{candidate.backend}` | {left} | "
        f"{1 / speed.value:.2f}x [{1 / speed.high:.2f}, {1 / speed.low:.2f}] | {found.trust} | "
        f"{_change(aspects['accuracy'])} |"
    )


def _change(accuracy: Aspect) -> str:
    effect = accuracy.effect
    verdict = "can't say"
    if effect.low > -_MARGIN:
        verdict = "yes"
    elif effect.high < -_MARGIN:
        verdict = "no"
    return f"{accuracy.first:.4f}, {effect.value:+.4f} [{effect.low:+.4f}, {effect.high:+.4f}] | {verdict}"
