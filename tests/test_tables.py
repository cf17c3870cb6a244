"""Tables that the docs take from studies: right for a small record, and honest without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools import choose_tables, export_tables, perplexity_tables, training_tables

MACHINE = {
    "cpu": {"model": "Abacus 9000"},
    "packages": dict.fromkeys(("torch", "onnx", "onnxruntime-gpu", "openvino"), "1"),
}


def write(folder: Path, name: str, value: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))


def training(results: Path, runs: list[dict[str, Any]]) -> None:
    write(results / "training/a", "environment.json", MACHINE)
    (results / "training/a/runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))


def test_without_a_record_it_says_so(tmp_path: Path) -> None:
    for table in (
        export_tables.faults,
        export_tables.parity,
        export_tables.static,
        training_tables.distill,
        choose_tables.study,
        perplexity_tables.table,
    ):
        assert table(tmp_path) == "*Not measured yet.*\n"


def test_faults_by_kind_and_what_outputs_alone_would_have_said(tmp_path: Path) -> None:
    def fault(kind: str, located: bool, error: float | str) -> dict[str, Any]:
        return {"fault": kind, "caught": True, "located": located, "output_error": error, "workload": "toast"}

    rows = [fault("no_butter", True, 1e-4), fault("no_butter", False, 1e-7), fault("burnt", True, "inf")]
    write(tmp_path / "export/a", "faults.json", {"faults": rows})
    write(tmp_path / "export/a", "environment.json", MACHINE)
    table = export_tables.faults(tmp_path)
    assert "| no butter | 2 | 2 | 1 | 1 | 0 |" in table
    assert "| **all** | 3 | 3 | 2 | 2 | 1 |" in table
    assert "Files of toast, Abacus 9000, a shared virtual machine; " in table
    assert "Located: 2 of 3" in table


def test_parity_by_file_and_runtime(tmp_path: Path) -> None:
    def row(reader: str, rows: str, error: float) -> dict[str, Any]:
        return {"reader": reader, "rows": rows, "calls": 9, "error": error}

    steps = [{"error": 3e-16, "tolerance": 1e-11}, {"error": 2e-16, "tolerance": 1e-11}]
    made = {"file": "toast.onnx", "ledger": steps, "parity": [row("grill", "real", 1e-6), row("grill", "random", 2e-6)]}
    write(tmp_path / "export/a", "toast.onnx.parity.json", made)
    write(tmp_path / "export/a", "environment.json", MACHINE)
    assert "| toast.onnx | 3e-16 / none | grill | 9 | 1.0e-06 | 9 | 2.0e-06 |" in export_tables.parity(tmp_path)


def test_arms_are_paired_by_seed(tmp_path: Path) -> None:
    def run(arm: str, seed: int, metric: float) -> dict[str, Any]:
        about = {"study": "distill", "workload": "toast", "arm": arm, "seed": seed}
        return about | {"metric": metric, "teacher": 0.9, "parameters": 0.25, "seconds": 1.0}

    runs = [run("with teacher", s, 0.8 + 0.1 * s) for s in range(3)] + [
        run("alone", s, 0.7 + 0.1 * s) for s in (2, 0, 1)
    ]
    training(tmp_path, runs)
    assert "| toast | 25% | 0.9000 | 0.9000 | 0.8000 | +0.1000" in training_tables.distill(tmp_path)


def test_what_training_under_rounding_wins_back(tmp_path: Path) -> None:
    def run(arm: str, seed: int, metric: float) -> dict[str, Any]:
        about = {"study": "qat", "workload": "toast", "arm": arm, "seed": seed}
        return about | {"metric": metric, "float": 0.9, "bits": 4, "seconds": 1.0}

    training(tmp_path, [run("rounded", s, 0.8) for s in (0, 1)] + [run("trained", s, 0.88 + 0.01 * s) for s in (0, 1)])
    assert "| toast | 4 bits | 0.9000 | 0.8000 | 0.8850 | 85% | -0.0150 [" in training_tables.qat(tmp_path)


def test_perplexity_against_each_stretch_in_float(tmp_path: Path) -> None:
    folder = tmp_path / "perplexity/a"
    write(folder, "environment.json", MACHINE)
    rows = [{"float32": 3.0 + i, "smooth, 8 bits": 3.0 + i + rise} for i, rise in enumerate((0.01, 0.02, 0.03))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = perplexity_tables.table(tmp_path)
    assert "| float32 | 54.60 |  | as published |" in table
    assert "| smooth, 8 bits | 55.70 | +2.02% [-0.48, 4.59] |" in table
    assert "381 predictions, in 3 stretches" in table
