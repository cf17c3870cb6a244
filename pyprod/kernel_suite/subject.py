"""One problem of one peer in the worker's process; the weights stay for the next number of rows."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pyprod.kernel_suite import peers, problems
from pyprod.kernel_suite.peers import Prepared, Variant
from pyprod.kernel_suite.problems import Problem
from pyprod.measure.subject import Observation
from pyprod.types import Candidate

_loaded: dict[tuple[str, str], tuple[Problem, Sequence[Prepared]]] = {}  # at most one: the last


def payload(candidate: Candidate) -> dict[str, Any]:
    """What a worker needs to make `subject`, as JSON values."""
    return {"candidate": candidate.id}


def subject(payload: Mapping[str, Any]) -> ProblemSubject:
    """The factory that worker processes call; see `payload`."""
    return ProblemSubject(Candidate.from_id(payload["candidate"]))


class ProblemSubject:
    """A Candidate of this suite as a `pyprod.measure.subject.Subject`."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        module, self._name = peers.split(candidate.backend)
        self._variant: Variant = module.VARIANTS[self._name]
        self._call: Callable[[], object]

    def build(self) -> list[Observation]:
        """Lower the weights unless the last problem had the same, bind the rows, and call for the first time."""
        candidate, key = self._candidate, (self._candidate.workload, self._candidate.backend)
        torch.set_num_threads(candidate.threads)
        torch.set_grad_enabled(False)  # for the whole process: entering inference mode in each call costs 2 µs
        start = time.perf_counter()
        if key not in _loaded:
            _loaded.clear()
            _loaded[key] = self._prepare()
        self._problem, self._prepared = _loaded[key]
        self._inputs = self._problem.inputs(candidate.batch)
        calls = [copy.bind(self._inputs) for copy in self._prepared]
        for call in calls:
            call()
        self._call = calls[0] if len(calls) == 1 else _rotating(calls)
        about = {"numerics": self._variant.numerics, "notes": [self._variant.about]}
        return [Observation("build_time", "s", [time.perf_counter() - start], about)]

    def _prepare(self) -> tuple[Problem, Sequence[Prepared]]:
        """The problem, lowered as many times as it wants copies of its weights."""
        module, name = peers.split(self._candidate.backend)
        if why := module.available(name):
            raise why
        kind, sizes = problems.parse(self._candidate.workload)
        problem = problems.module(kind).build(**sizes)
        with tempfile.TemporaryDirectory() as workdir:
            copies = range(getattr(problem, "copies", 1))
            return problem, [module.prepare(problem, name, self._candidate.threads, Path(workdir)) for _ in copies]

    def check(self) -> list[Observation]:
        """The error of one call's output against the problem's own answer, and how long that call took."""
        start = time.perf_counter()
        output = self._call()
        trial = time.perf_counter() - start
        error = self._problem.check(self._prepared[0].tensors(output), self._inputs, self._variant.numerics)
        return [Observation("relative_error", "1", [error]), Observation("trial", "s", [trial])]

    def score(self) -> list[Observation]:
        """Nothing: a problem has no data to be judged on."""
        return []

    def release(self) -> None:
        """Nothing: the rows are bound, the weights wait for the next number of rows."""

    def memory(self) -> list[Observation]:
        """Nothing."""
        return []

    @property
    def call(self) -> Callable[[], object]:
        """The peer's own call."""
        return self._call

    @property
    def samples_per_call(self) -> int:
        """The number of rows."""
        return self._candidate.batch


def _rotating(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """One after the other, each on weights of its own; takes 0.1 µs more than one of them."""
    each = itertools.cycle(calls).__next__
    return lambda: each()()
