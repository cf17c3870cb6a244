"""From a Candidate to something that can be measured: load its model, lower it, check it, judge it.

Outputs are checked against the same model in float32 eager; what a recipe did to the model, the metric says.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyprod import backends, environment, recipes, workloads
from pyprod.backends import Request, Runner, Variant
from pyprod.measure.subject import Observation
from pyprod.step import Made
from pyprod.types import Candidate, Mismatch
from pyprod.workloads import Workload

#: How far the output may be from float32 eager, as relative L2 error. Wide enough for honest rounding of each
#: arithmetic through tens of layers, narrow enough for a wrong weight, axis or mask (an output of zeros has error 1);
#: what quantization costs is judged by the accuracy metric on real data, not by this.
TOLERANCE: Mapping[str, float] = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2, "int8": 0.7}

#: Rows that are checked, at least: the one number that a classifier gives for one row may lie near 0, where any
#: rounding is large beside it.
CHECKED_ROWS = 8


def payload(candidate: Candidate, cache: Path) -> dict[str, Any]:
    """What a worker needs to make `subject`, as JSON values."""
    return {"candidate": candidate.id, "cache": str(cache)}


def subject(payload: Mapping[str, Any]) -> CandidateSubject:
    """The factory that worker processes call; see `payload`."""
    return CandidateSubject(Candidate.from_id(payload["candidate"]), Path(payload["cache"]))


class CandidateSubject:
    """One Candidate as a `pyprod.measure.subject.Subject`: everything happens in the process that holds it."""

    def __init__(self, candidate: Candidate, cache: Path) -> None:
        self._candidate = candidate
        self._cache = cache
        self._workload: Workload | None = None
        self._reference: Tensor | None = None
        self._variant: Variant
        self._runner: Runner
        self._call: Callable[[], object]

    def build(self) -> list[Observation]:
        """Load the model, run it once in eager as reference, lower it, and call the result for the first time."""
        candidate = self._candidate
        torch.set_num_threads(candidate.threads)
        module, name = backends.split(candidate.backend)
        if why := module.available(name, candidate.device):
            raise why
        self._variant = module.VARIANTS[name]
        self._workload = workload = workloads.load(candidate.workload)
        made = Made(workload.model())
        if candidate.recipe != "base":
            made = recipes.load(candidate.workload, candidate.recipe, workload)
        model = made.model
        example = workload.example(candidate.batch)
        with torch.inference_mode():
            self._reference = torch.cat([model(*inputs) for inputs in self._checked_inputs()])
        request = Request(
            model=model,
            example=example,
            calibration=workload.calibration,
            quantspec=made.quantspec,
            variant=name,
            device=candidate.device,
            threads=candidate.threads,
            workdir=Path(tempfile.mkdtemp(prefix="artifact-")),
            cache=self._cache,
        )
        start = time.perf_counter()
        self._runner = module.prepare(request)
        built = time.perf_counter()
        self._call = self._runner.bind(example)
        bound = time.perf_counter()
        self._call()
        called = time.perf_counter()
        about = {
            "notes": [*made.notes, *self._ignored(made), *self._runner.notes],
            "unit": workload.unit,
            "tokens_per_sample": workload.tokens_per_sample,
            "numerics": self._variant.numerics,
            "model": recipes.digest_of(candidate.workload, candidate.recipe),
        }
        return [
            Observation("build_time", "s", [built - start + self._runner.borrowed_s], about),
            Observation("first_call", "s", [called - bound]),
            Observation("artifact_size", "bytes", [self._runner.artifact_bytes]),
        ]

    def _ignored(self, made: Made) -> list[str]:
        if made.quantspec is None or backends.lowers(self._candidate.backend, made.quantspec):
            return []
        return ["the recipe's QuantSpec is not run by this backend"]

    def check(self) -> list[Observation]:
        """Relative L2 error on the first rows: the timed call on its example, and further batches."""
        assert self._reference is not None
        further = self._checked_inputs()[1:]
        outputs = [self._runner.tensor(self._call()).clone(), *(self._runner.run(inputs).clone() for inputs in further)]
        error = relative_error(torch.cat(outputs), self._reference)
        tolerance = TOLERANCE[self._variant.numerics]
        if not error <= tolerance:
            raise Mismatch(f"relative error {error:.3g} against float32 eager, tolerance {tolerance:g}")
        return [Observation("relative_error", "1", [error], {"tolerance": tolerance})]

    def _checked_inputs(self) -> list[tuple[Tensor, ...]]:
        """The example and as many batches after it as it takes to CHECKED_ROWS."""
        assert self._workload is not None
        rows, batch = self._workload.inputs[0].shape[0], self._candidate.batch
        starts = range(0, max(CHECKED_ROWS, batch), batch)
        return [_batch(self._workload, torch.arange(start, start + batch) % rows) for start in starts]

    def score(self) -> list[Observation]:
        """The workload's metric on its whole evaluation set, in batches of the candidate's size; none without one."""
        assert self._workload is not None
        if self._workload.score is None:
            return []
        outputs = evaluate(self._runner, self._workload, self._candidate.batch)
        if not bool(outputs.isfinite().all()):
            raise Mismatch("output on the evaluation set is not finite")
        result = self._workload.score(outputs)
        context = {"statistic": result.statistic, "truth": list(result.truth), "cluster": list(result.cluster)}
        return [Observation("accuracy", result.statistic, list(result.values), context)]

    def release(self) -> None:
        """Drop the data and the reference: production holds neither."""
        self._workload = self._reference = None
        gc.collect()
        if self._candidate.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def memory(self) -> list[Observation]:
        """Device memory that this process holds (NVML), and the peak of torch's allocator, which others pass by."""
        if self._candidate.device != "cuda":
            return []
        observations = [Observation("gpu_allocator_peak", "bytes", [torch.cuda.max_memory_allocated()])]
        held = environment.gpu_memory(os.getpid())
        return observations if held is None else [*observations, Observation("gpu_memory", "bytes", [held])]

    @property
    def call(self) -> Callable[[], object]:
        """The backend's own call on the example."""
        return self._call

    @property
    def samples_per_call(self) -> int:
        """The batch size."""
        return self._candidate.batch


def relative_error(output: Tensor, reference: Tensor) -> float:
    """L2 norm of the difference over L2 norm of `reference`, in float64.

    Raises:
        Mismatch: the shapes differ, or `output` holds a NaN or an infinity.
    """
    if output.shape != reference.shape:
        raise Mismatch(f"output has shape {tuple(output.shape)}, float32 eager gives {tuple(reference.shape)}")
    got, want = output.double().cpu(), reference.double()
    if not bool(got.isfinite().all()):
        raise Mismatch("output is not finite")
    return float((got - want).norm() / want.norm().clamp_min(torch.finfo(torch.float64).tiny))


def evaluate(runner: Runner, workload: Workload, batch: int) -> Tensor:
    """Reduced outputs over the whole evaluation set, in batches of exactly `batch` rows: shapes may be fixed.

    The last batch is filled up with rows from the start, whose outputs are dropped.
    """
    rows = workload.inputs[0].shape[0]
    kept = []
    for start in range(0, rows, batch):
        outputs = runner.run(_batch(workload, torch.arange(start, start + batch) % rows))
        kept.append(workload.reduce(outputs[: rows - start], start).clone())
    return torch.cat(kept)


def _batch(workload: Workload, rows: Tensor) -> tuple[Tensor, ...]:
    return tuple(t[rows].contiguous() for t in workload.inputs)
