"""What distillation, training in bfloat16, and training under rounding gain and cost: over seeds, beside without.

    python -m tools.training_study results/training/NAME --study distill --workload digits
    python -m tools.training_study results/training/NAME --study bfloat16 --workload tabular

Appends a line per training to ``runs.jsonl``; what is there already is not trained again.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyprod import environment, workloads
from pyprod.measure import statistics
from pyprod.measure.store import write_atomically
from pyprod.optimize import finetune, structured
from pyprod.progress import Bar
from pyprod.quantize import ptq
from pyprod.quantize import qat as quantize_aware
from pyprod.quantize.simulate import simulation
from pyprod.step import Context, Made
from pyprod.train import Settings, fit
from pyprod.workloads import Workload, training

RUNS, ENVIRONMENT = "runs.jsonl", "environment.json"

#: Share of the operations that a student keeps, so that at most a quarter of the parameters are left; its training; and
#: how it learns from its teacher.
STUDENTS: Mapping[str, dict[str, Any]] = {
    "digits": {"macs": 0.24, "round_to": 2, "epochs": 30, "learning_rate": 0.01},
    "fashion_mnist": {"macs": 0.24, "round_to": 2, "epochs": 4, "learning_rate": 0.01},
    "tabular": {"macs": 0.22, "round_to": 4, "epochs": 3, "learning_rate": 0.001},
}
TEACHERS: Mapping[str, dict[str, Any]] = {
    "digits": {"weight": 0.5, "temperature": 2.0},
    "fashion_mnist": {"weight": 0.5, "temperature": 2.0},
    "tabular": {"weight": 0.5, "temperature": 2.0},
}


#: Weights of so few bits that rounding costs something, and the training that shall win it back.
ROUNDED: Mapping[str, dict[str, Any]] = {
    "digits": {"weight_bits": 3, "epochs": 15, "learning_rate": 0.002},
    "fashion_mnist": {"weight_bits": 4, "epochs": 1, "learning_rate": 0.001},
    "tabular": {"weight_bits": 3, "epochs": 1, "learning_rate": 0.0005},
}


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the record")
    parser.add_argument("--study", choices=sorted(STUDIES), required=True)
    parser.add_argument("--workload", choices=sorted(STUDENTS), required=True)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / ENVIRONMENT, json.dumps(environment.fingerprint(), indent=1) + "\n")
    torch.set_num_threads(1)
    arms, train = STUDIES[options.study]
    known = {(r["study"], r["workload"], r["arm"], r["seed"]) for r in read(options.out)}
    with Bar(options.study) as bar:
        missing = [(arm, seed) for seed in range(options.seeds) for arm in arms]
        bar.planned(len(missing))
        for arm, seed in missing:
            about = {"study": options.study, "workload": options.workload, "arm": arm, "seed": seed}
            bar.step(f"{options.workload} {arm} {seed}")
            if tuple(about.values()) not in known:
                row = about | train(options.workload, arm, seed)
                with (options.out / RUNS).open("a") as file:
                    file.write(json.dumps(row) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """The trainings so far."""
    path = folder / RUNS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def distill(name: str, arm: str, seed: int) -> dict[str, Any]:
    """A student with a quarter of the teacher's parameters: pruned from it and trained, with it or without."""
    workload, how = workloads.load(name), dict(STUDENTS[name])
    teacher = copy.deepcopy(workload.model())
    small = structured.prune(copy.deepcopy(teacher), workload.example(1), how.pop("macs"), round_to=how.pop("round_to"))
    before = score(teacher, workload)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        made = finetune.apply(
            Made(small.model),
            Context(workload, Path(folder)),
            distill=TEACHERS[name] if arm == "with teacher" else None,
            seed=seed,
            **how,
        )
    return {
        "metric": score(made.model, workload),
        "teacher": before,
        "parameters": small.parameters[1] / small.parameters[0],
        "macs": small.macs[1] / small.macs[0],
        "seconds": time.monotonic() - started,
    }


def bfloat16(name: str, arm: str, seed: int) -> dict[str, Any]:
    """The workload's own training from the beginning, in an arithmetic."""
    workload = workloads.load(name)
    data = training(workload)
    started = time.monotonic()
    made = fit(data.model, data, Settings(precision=arm, seed=seed), title="")  # type: ignore[arg-type]
    seconds = time.monotonic() - started
    return {"metric": score(made.model, workload), "seconds": seconds, "steps": made.steps, "skipped": made.skipped}


def qat(name: str, arm: str, seed: int) -> dict[str, Any]:
    """Weights of few bits: the model rounded as it is, or trained under the rounding."""
    workload, how = workloads.load(name), dict(ROUNDED[name])
    bits = how.pop("weight_bits")
    made = Made(copy.deepcopy(workload.model()))
    before, started = score(made.model, workload), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        context = Context(workload, Path(folder))
        if arm == "rounded":
            made = ptq.apply(made, context, scheme="static", observer="mse", weight_bits=bits)
        else:
            made = quantize_aware.apply(
                made, context, observer="mse", weight_bits=bits, distill=TEACHERS[name], seed=seed, **how
            )
    seconds = time.monotonic() - started
    assert made.quantspec is not None
    metric = score(simulation(made.model, made.quantspec), workload)
    return {"metric": metric, "float": before, "bits": bits, "seconds": seconds}


def score(model: nn.Module, workload: Workload) -> float:
    """The workload's metric of a float model."""
    assert workload.score is not None
    rows = len(workload.inputs[0])
    with torch.inference_mode():
        outputs = [workload.reduce(model(*(t[i : i + 100] for t in workload.inputs)), i) for i in range(0, rows, 100)]
    return statistics.score(workload.score(torch.cat(outputs)))


STUDIES = {
    "qat": (("rounded", "trained"), qat),
    "distill": (("with teacher", "alone"), distill),
    "bfloat16": (("float32", "bfloat16"), bfloat16),
}

if __name__ == "__main__":
    main()
