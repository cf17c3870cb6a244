"""Perplexity of the decoder's INT8 forms on all of its text, where the workload scores 2,032 tokens.

Each stretch of 128 tokens is scored by every form, and its surprise compared with float32's on that very stretch. The
calibration's stretches are left out. A run takes about ten minutes; one that was stopped goes on.

    python -m tools.perplexity_study results/perplexity/NAME
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pyprod import environment, workloads
from pyprod.fuse import fuse, smooth
from pyprod.measure.store import write_atomically
from pyprod.nn import dynamic_quantspec
from pyprod.progress import Bar
from pyprod.quantize.ptq import quantspec
from pyprod.types import QuantSpec
from pyprod.workloads import _smollm
from pyprod.workloads.decoder import CALIBRATION_ROWS, LENGTH
from tools.perplexity_tables import ENVIRONMENT, FORMS, ROWS, table

_ROWS = 4  # a pass


def main() -> None:
    """Score what is not yet in the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / ENVIRONMENT, json.dumps(environment.fingerprint(), indent=1) + "\n")
    rows = _rows()
    done = len((out / ROWS).read_text().splitlines()) if (out / ROWS).exists() else 0
    forms = _forms(rows[:_ROWS])
    with Bar("scoring") as bar, (out / ROWS).open("a") as file, torch.inference_mode():
        bar.planned(len(rows) // _ROWS)
        for start in range(0, len(rows) - _ROWS + 1, _ROWS):  # the graphs take no incomplete pass
            if start >= done:
                scored = _scored(forms, rows[start : start + _ROWS])
                file.write("".join(json.dumps(row) + "\n" for row in scored))
                file.flush()
            bar.step(f"stretch {start + _ROWS}")
    print(table(out.parent.parent))


def _rows() -> Tensor:
    """Stretches of the text, int64 ``[n, LENGTH]``, but for the last, which calibrate."""
    ids = _smollm.tokens()
    ids = ids[: len(ids) - CALIBRATION_ROWS * LENGTH]
    return ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)


def _forms(example: Tensor) -> Mapping[str, nn.Module]:
    workload = workloads.load("decoder")
    original, smoothed = workload.model(), workload.model()
    inputs = smooth(smoothed, workload.calibration).inputs
    eight = dynamic_quantspec(smoothed, smoothing=inputs)
    four = quantspec(original, workload, "dynamic", weight_bits=4, group_size=32)
    head = dynamic_quantspec(original).weights["head"]
    four = QuantSpec({**four.weights, "head": head}, four.activations)
    made = (original, fuse(smoothed, eight, (example,)), fuse(original, four, (example,)))
    return dict(zip(FORMS, made, strict=True))


def _scored(forms: Mapping[str, nn.Module], rows: Tensor) -> list[dict[str, float]]:
    """By form, the mean surprise of each row in nats."""
    found = {}
    for name, form in forms.items():
        found[name] = _smollm.surprise(form(rows)[:, :-1], rows[:, 1:]).mean(1).tolist()
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


if __name__ == "__main__":
    main()
