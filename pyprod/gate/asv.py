"""asv's benchmarks as a suite of the gate: its ``time_...`` functions and methods, under our rule instead of a factor.

asv's runner finds them and sets them up. Only the import is ours: the package is HEAD's on both sides, while what it
imports must come from each side's own tree, so nothing is added to the path.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pyprod.types import PyprodError, Unavailable


class Timed(NamedTuple):
    """One benchmark with one choice of its parameters.

    Attributes:
        name: as asv writes it: "bench_ops.Linear.time_int8_linear('1x384x1536', 1)".
        file: that defines it.
        setup: makes it ready, in a fresh copy of its module; takes what a suite's own benchmarks take.
    """

    name: str
    file: str
    setup: Callable[[object], Callable[[], object]]


def folder(config: Path) -> str:
    """Where a project's benchmarks are, below it, as its asv.conf.json says.

    Raises:
        PyprodError: it has none, or none that asv can read.
    """
    from asv.config import Config
    from asv.util import UserError

    try:
        found = Config.load(str(config)).benchmark_dir
    except (UserError, ValueError, OSError) as error:
        raise PyprodError(f"HEAD's {config.name} can't be read: {error}") from error
    return str(found)


def suite(package: Path) -> Iterator[Timed]:
    """Every timing benchmark of the package in a folder, once for each choice of its parameters."""
    from asv_runner.discovery import disc_benchmarks

    _install(package)
    for benchmark in list(disc_benchmarks(str(package))):
        if benchmark.type != "time":
            continue
        sources = benchmark._attr_sources
        place = sources[-1].__name__, type(sources[1]).__name__ if len(sources) == 3 else "", benchmark.func.__name__
        file = inspect.getsourcefile(sources[-1]) or ""
        for index, values in enumerate(itertools.product(*benchmark.params)):
            shown = f"({', '.join(values)})" if values else ""
            yield Timed(f"{benchmark.name}{shown}", file, functools.partial(_setup, package, place, index))


def _setup(package: Path, place: tuple[str, str, str], index: int, _: object) -> Callable[[], object]:
    """The call, of a module imported anew: what an earlier benchmark kept lies in memory that is used again.

    Raises:
        Unavailable: its ``setup`` says NotImplementedError, asv's word for "not these parameters".
    """
    from asv_runner.discovery import _get_benchmark

    _install(package)
    module_name, class_name, function_name = place
    module = importlib.import_module(module_name)
    owner = getattr(module, class_name) if class_name else None
    function = getattr(owner or module, function_name)
    benchmark: Any = _get_benchmark(function_name, module, owner, function)
    benchmark.set_param_idx(index)
    if benchmark._setup_cache is not None:
        benchmark.set_cache(benchmark._setup_cache())
    if benchmark.do_setup():
        raise Unavailable(f"{benchmark.name}: not with these parameters")
    return functools.partial(benchmark.func, *benchmark._build_params())


def _install(package: Path) -> None:
    """Make the package importable under its folder's name, and forget what was imported of it before."""
    for name in [n for n in sys.modules if n.partition(".")[0] == package.name]:
        vars(sys.modules.pop(name)).clear()  # else a frozen heap keeps it, and all that it cached
    initial = package / "__init__.py"
    spec = importlib.util.spec_from_file_location(package.name, initial, submodule_search_locations=[str(package)])
    if not initial.is_file() or spec is None or spec.loader is None:
        raise PyprodError(f"{package.name} is no package: asv wants an __init__.py in its folder of benchmarks")
    module = importlib.util.module_from_spec(spec)
    sys.modules[package.name] = module
    spec.loader.exec_module(module)
