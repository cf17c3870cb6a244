"""What came of the newest study of the chooser under ``results/choose/``, in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

from tools.gate_study.tables import rate


def study(results: Path) -> str:
    """How often the choice met the demands, and what it cost against the best."""
    found = sorted((results / "choose").glob("*/study.json"))
    if not found:
        return "*Not measured yet.*\n"
    about, folder = json.loads(found[-1].read_text()), found[-1].parent.name
    cpu = json.loads((found[-1].parent / "environment.json").read_text())["cpu"]["model"]
    repeats = about["repeats"]
    demands = ", ".join(f"{name} {limit:g}" for name, limit in about["require"].items())
    chosen = sorted({row["chosen"] or "none" for row in repeats})
    regret = max(row["regret"] for row in repeats if row["chosen"])
    return (
        f"Of the encoder's forms, under {demands}, choosing from {about['rounds']} rounds drawn from the record's: the "
        f"demands were met in {rate(sum(row['met'] for row in repeats), len(repeats))}, and the best form that meets "
        f"them would have been better by at most {regret:.1%}. Chosen: {', '.join(chosen)}.\n\n"
        f"*{cpu}, a shared virtual machine. Rounds that were drawn are part of the truth that they are held against. "
        f"`python -m tools.choose_study results/choose/{folder} ...`, "
        f"[results/choose/{folder}](../results/choose/{folder}).*\n"
    )
