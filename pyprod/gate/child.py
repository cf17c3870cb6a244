"""One side of a pair: a revision's code, timed by the harness's own code.

All of the harness is imported before; then every trace of ``pyprod`` leaves `sys.modules`, so that a revision of pyprod
itself can be measured by another. `pyprod.gate.zygote` forks the process.
"""

from __future__ import annotations

import gc
import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyprod import discover
from pyprod.gate import asv
from pyprod.gate.instruments import Instrument, Slice, instrument
from pyprod.gate.place import Memory, Place
from pyprod.measure.subject import Observation
from pyprod.types import Mismatch, PyprodError

#: Where Python's own modules and installed packages lie.
INSTALLED = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
#: The module that a process was started with is the harness's, whatever the revision.
HARNESS = ("__main__", "__mp_main__")

Setup = Callable[[Place], Callable[[], object]]


class Child:
    """Answers about the benchmarks of one revision."""

    def __init__(self, side: str, tensors: Memory, allocations: Memory) -> None:
        self._side = side
        self._memories = tensors, allocations
        self._benchmarks: dict[str, Setup] = {}
        self._instrument: Instrument

    def load(
        self,
        tree: str,
        path: Sequence[str],
        suite: Sequence[str],
        checkout: str,
        threads: int,
        device: str,
        cold: bool,
    ) -> list[Observation]:
        """Import the suite's files; what they import comes out of `tree`.

        Args:
            tree: folder of the revision.
            path: folders in it that modules are looked for in.
            suite: files, or folders of asv's benchmarks; of HEAD on both sides: the same work for both.
            checkout: folder that nothing may be imported from: the repository the revision was taken from.
            device, cold: see `pyprod.gate.instruments`.
        """
        self._instrument = instrument(device, cold, *self._memories)
        for name in [n for n in sys.modules if n == "pyprod" or n.startswith("pyprod.")]:
            del sys.modules[name]
        known = set(sys.modules)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)  # for good: a call that trains says so itself
        sys.path[:] = [*(str(Path(tree, folder)) for folder in path), *(p for p in sys.path if p)]
        files: dict[str, str] = {}
        for file in map(Path, suite):
            found, where = _benchmarks(file)
            if doubled := sorted(found.keys() & self._benchmarks.keys()):
                raise PyprodError(f"{file.name} defines again what another file has: {', '.join(doubled)}")
            self._benchmarks.update(found)
            files.update(where)
        _refuse_strangers(Path(tree), Path(checkout))
        gc.freeze()  # what there is now stays: to look through torch's own objects before each benchmark takes 80 ms
        foreign = [name for name in sys.modules if name not in known and _is_installed(name)]
        return [Observation("benchmarks", "names", (), {"files": dict(sorted(files.items())), "foreign": foreign})]

    def setup(self, name: str, seed: str) -> list[Observation]:
        """Make a benchmark ready. The same seed gives the same data at the same addresses on both sides."""
        self._let_go()
        number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
        torch.manual_seed(number % 2**63)
        np.random.seed(number % 2**32)
        self._instrument.reset(number)
        with self._instrument.entered():
            self._place = Place(self._instrument.memory, seed)
            warmed = self._instrument.prepare(self._benchmarks[name](self._place))
        extent = self._place.extent + warmed.context["extent"]
        return [warmed._replace(context={**warmed.context, "extent": extent})]

    def slice(
        self, window: int, data: int, settle_ns: int, min_count: int, max_count: int, max_ns: int
    ) -> list[Observation]:
        """Tensors written, with new input values; then samples."""
        with self._instrument.entered(window):
            self._place.write(data, window)
            durations, context = self._instrument.sample(Slice(settle_ns, min_count, max_count, max_ns))
        return [Observation("latency", "ns", durations, context)]

    def output(self, data: int, folder: str) -> list[Observation]:
        """One more call as they were timed; its result goes to ``folder/SIDE.npy``, as float64.

        Raises:
            Mismatch: a value is not finite.
        """
        with self._instrument.entered():
            self._place.write(data)
            values = np.concatenate([np.zeros(0), *_numbers(self._instrument.result())])
        if not np.isfinite(values).all():
            raise Mismatch(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are not finite")
        np.save(Path(folder, f"{self._side}.npy"), values)
        return [Observation("output", "values", [float(values.size)])]

    def memory(self) -> list[Observation]:
        """Peak memory since the benchmark was set up; nothing where the system does not say."""
        return self._instrument.peak()

    def energy(self, data: int, seconds: float) -> list[Observation]:
        """Joules per call; nothing where nothing counts them."""
        with self._instrument.entered():
            self._place.write(data)
            return self._instrument.energy(seconds)

    def _let_go(self) -> None:
        """Forget the last benchmark, so that the next one finds the process as that one did."""
        self._instrument.forget()
        self._place = Place(self._instrument.memory, "")


def _benchmarks(path: Path) -> tuple[Mapping[str, Setup], Mapping[str, str]]:
    """What a suite's file or folder defines, by name: the setup function, and the file."""
    if path.is_dir():
        timed = list(asv.suite(path))
        return {t.name: t.setup for t in timed}, {t.name: t.file for t in timed}
    found: Mapping[str, Setup] = discover.load_file(path).benchmarks()
    return found, dict.fromkeys(found, str(path))


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


def _is_installed(name: str) -> bool:
    """Whether a module is Python's or a package's, and so the same for any revision."""
    file = Path(getattr(sys.modules[name], "__file__", None) or "/")
    return name.partition(".")[0] != "pyprod" and any(file.is_relative_to(folder) for folder in INSTALLED)


def _refuse_strangers(tree: Path, checkout: Path) -> None:
    """Two revisions that both import the checkout's modules would be compared to themselves."""
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        inside = file.is_relative_to(checkout) and not file.is_relative_to(tree)
        if inside and name not in HARNESS and not {"site-packages", "dist-packages"} & set(file.parts):
            raise PyprodError(f"{name} was imported from {file}, not from the revision: is it on PYTHONPATH?")
