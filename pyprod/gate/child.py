"""One side of a pair: a revision's code, timed by the harness's own code.

All of the harness is imported before; then every trace of ``pyprod`` leaves `sys.modules`, so that a revision of pyprod
itself can be measured by another. `pyprod.gate.zygote` forks the process.
"""

from __future__ import annotations

import gc
import hashlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyprod import discover
from pyprod.gate.place import Allocations, Memory, Place
from pyprod.measure import memory, sampling
from pyprod.measure.subject import Observation
from pyprod.types import Mismatch, PyprodError

#: A process times each benchmark for some 20 ms: windows must be short.
WARM_WINDOW_NS = 2_000_000

#: A slice may take so many times its time, to make its least number of calls.
PATIENCE = 5
#: Weights and activations of some MB are back in their cache after so many calls.
SETTLE_CALLS = 4

#: The module that a process was started with is the harness's, whatever the revision.
HARNESS = ("__main__", "__mp_main__")

Setup = Callable[[Place], Callable[[], object]]


class Child:
    """Answers about the benchmarks of one revision."""

    def __init__(self, side: str, tensors: Memory, allocations: Memory) -> None:
        self._side = side
        self._memory = tensors
        self._allocations = Allocations(allocations)
        self._benchmarks: dict[str, Setup] = {}
        self._place: Place
        self._call: Callable[[], object]
        self._peak_was_reset = False

    def load(
        self, tree: str, path: Sequence[str], suite: Sequence[str], checkout: str, threads: int
    ) -> list[Observation]:
        """Import the suite's files; what they import comes out of `tree`.

        Args:
            tree: folder of the revision.
            path: folders in it that modules are looked for in.
            suite: files, of HEAD on both sides: the same work for both.
            checkout: folder that nothing may be imported from: the repository the revision was taken from.
        """
        for name in [n for n in sys.modules if n == "pyprod" or n.startswith("pyprod.")]:
            del sys.modules[name]
        torch.set_num_threads(threads)
        torch.inference_mode().__enter__()  # for good: a call that trains leaves it itself
        sys.path[:] = [*(str(Path(tree, folder)) for folder in path), *(p for p in sys.path if p)]
        files: dict[str, str] = {}
        for file in map(Path, suite):
            found: Mapping[str, Setup] = discover.load_file(file).benchmarks()
            if doubled := sorted(found.keys() & self._benchmarks.keys()):
                raise PyprodError(f"{file.name} defines again what another file has: {', '.join(doubled)}")
            self._benchmarks.update(found)
            files.update(dict.fromkeys(found, str(file)))
        _refuse_strangers(Path(tree), Path(checkout))
        return [Observation("benchmarks", "names", (), {"files": dict(sorted(files.items()))})]

    def setup(self, name: str, seed: str) -> list[Observation]:
        """Make a benchmark ready. The same seed gives the same data at the same addresses on both sides."""
        self._let_go()
        memory.trim()
        gc.freeze()  # what there is now stays: to look through torch's own objects again takes 80 ms
        number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
        torch.manual_seed(number % 2**63)
        np.random.seed(number % 2**32)
        self._allocations.reset(number)
        with self._allocations.entered():
            self._place = Place(self._memory, seed)
            self._call = self._benchmarks[name](self._place)
            memory.trim()
            self._peak_was_reset = memory.reset_peak()
            done = sampling.warm_up(self._call, max_ns=200_000_000, window_ns=WARM_WINDOW_NS)
        extent = self._place.extent + self._allocations.extent
        context = {"calls": done.calls, "steady": done.steady, "extent": extent}
        return [Observation("warmup_time", "s", [done.elapsed_ns / 1e9], context)]

    def slice(
        self, window: int, data: int, settle_ns: int, min_count: int, max_count: int, max_ns: int
    ) -> list[Observation]:
        """Tensors written, with new input values; calls unrecorded (the caches were the other side's), then samples.

        After `max_ns` it goes on to `min_count` calls, and after `settle_ns` to `SETTLE_CALLS`, but for no longer than
        `PATIENCE` times that.
        """
        with self._allocations.entered(window):
            self._place.write(data, window)
            self._calls(SETTLE_CALLS, 1000, settle_ns)
            before, cpu = resource.getrusage(resource.RUSAGE_THREAD), time.process_time_ns()
            start = time.perf_counter_ns()
            durations = self._calls(min_count, max_count, max_ns)
            elapsed, cpu = time.perf_counter_ns() - start, time.process_time_ns() - cpu
        preempted = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - before.ru_nivcsw
        context = {"preempted": preempted, "cpu_share": round(cpu / elapsed, 3)}
        return [Observation("latency", "ns", durations, context)]

    def output(self, data: int, folder: str) -> list[Observation]:
        """One more call as they were timed; its result goes to ``folder/SIDE.npy``, as float64.

        Raises:
            Mismatch: a value is not finite.
        """
        with self._allocations.entered():
            self._place.write(data)
            values = np.concatenate([np.zeros(0), *_numbers(self._call())])
        if not np.isfinite(values).all():
            raise Mismatch(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are not finite")
        np.save(Path(folder, f"{self._side}.npy"), values)
        return [Observation("output", "values", [float(values.size)])]

    def memory(self) -> list[Observation]:
        """Peak resident set of the process since the benchmark was set up; nothing where Linux does not say."""
        return [o for o in memory.usage(self._peak_was_reset) if o.metric == "peak_rss" and self._peak_was_reset]

    def _calls(self, min_count: int, max_count: int, max_ns: int) -> list[int]:
        durations = sampling.sample(self._call, max_count, max_ns)
        if len(durations) < min_count:
            durations += sampling.sample(self._call, min_count - len(durations), (PATIENCE - 1) * max_ns)
        return durations

    def _let_go(self) -> None:
        """Forget the last benchmark, so that the next one finds the process as that one did."""
        self._call = lambda: None
        self._place = Place(self._memory, "")


def _numbers(value: object) -> Iterator[np.ndarray[Any, Any]]:
    """All numbers in tensors, arrays and scalars, in nested tuples, lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value.detach().to("cpu", torch.float64).flatten().numpy()
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from _numbers(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float | np.ndarray):
        yield np.asarray(value, dtype=float).flatten()
    elif value is not None:
        raise PyprodError(
            f"a benchmark's call must return tensors or numbers to be checked, not {type(value).__name__}"
        )


def _refuse_strangers(tree: Path, checkout: Path) -> None:
    """Two revisions that both import the checkout's modules would be compared to themselves."""
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        inside = file.is_relative_to(checkout) and not file.is_relative_to(tree)
        if inside and name not in HARNESS and not {"site-packages", "dist-packages"} & set(file.parts):
            raise PyprodError(f"{name} was imported from {file}, not from the revision: is it on PYTHONPATH?")
