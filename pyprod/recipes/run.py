"""Runs the steps of recipes, keeps what each gave, and gives it back.

Below the cache folder, ``recipes/steps/<digest>/`` has the model and what is known of it after a step; `_digests` says
of what the digest is. ``recipes/named/`` says which one a workload's recipe was last.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import itertools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pyprod import discover, optimize, quantize, workloads
from pyprod.measure.store import write_atomically
from pyprod.recipes import shapes
from pyprod.recipes.file import Step
from pyprod.recipes.sources import sources
from pyprod.step import Context, Made
from pyprod.types import PyprodError, QuantSpec
from pyprod.workloads import Workload, fingerprint

MODEL, ABOUT = "model.safetensors", "about.json"

#: Rooms that have steps.
ROOMS = (optimize, quantize)

#: Called with what begins now.
Progress = Callable[[str], None]


def make(workload_name: str, name: str, steps: Sequence[Step], progress: Progress, threads: int = 1) -> str:
    """Make a recipe's model: only the steps whose result is not there yet. Killed, it goes on where it was.

    Returns:
        The digest of the result: equal for equal inputs.

    Raises:
        PyprodError: a step is unknown, has other arguments, or can't do what is asked.
    """
    modules = check(steps)
    workload = workloads.load(workload_name)
    digests = _digests(workload_name, workload, steps, threads)
    root = _root() / "steps"
    done = max((i for i, digest in enumerate(digests) if (root / digest / ABOUT).is_file()), default=-1)
    made = Made(_own(workload)) if done < 0 else _load(root / digests[done], workload)
    for i in range(done + 1, len(steps)):
        progress(f"{name}: {steps[i].name}")
        made = _run(modules[i], steps[i], made, workload, root / digests[i], threads)
    if digests:
        named = _name_file(workload_name, name)
        named.parent.mkdir(parents=True, exist_ok=True)
        about = {"digest": digests[-1], "steps": [_plain(step) for step in steps]}
        write_atomically(named, json.dumps(about, indent=1) + "\n")
    return digests[-1] if digests else "base"


def check(steps: Sequence[Step]) -> list[ModuleType]:
    """The files of these steps. That a step is misspelt is said before hours of training, not after.

    Raises:
        PyprodError: there is no such step, it takes other arguments, or changes weights that were quantized before.
    """
    modules = [_module(step.name) for step in steps]
    for (earlier, before), (later, after) in itertools.pairwise(zip(modules, steps, strict=True)):
        if hasattr(earlier, "FINDS_SCALES") and not hasattr(later, "FINDS_SCALES"):
            raise PyprodError(f"step {after.name} changes weights whose scales {before.name} has found: put it before")
    for module, step in zip(modules, steps, strict=True):
        signature = inspect.signature(module.apply)
        try:
            signature.bind(None, None, **step.arguments)
        except TypeError as error:
            known = list(signature.parameters.values())[2:]
            takes = ", ".join(p.name if p.default is p.empty else f"{p.name} = {p.default!r}" for p in known)
            raise PyprodError(f"step {step.name}: {error}; it takes: {takes or 'nothing'}") from error
    return modules


def load(workload_name: str, name: str, workload: Workload) -> Made:
    """The model of a recipe that was made before.

    Raises:
        PyprodError: it was not made on this machine, or its file is damaged.
    """
    path = _name_file(workload_name, name)
    if not path.is_file():
        made = [p.stem for p in sorted(path.parent.glob("*.json"))]
        raise PyprodError(f"{discover.unknown('recipe', name, made)}; pyprod ship RECIPE.toml makes it")
    return _load(_root() / "steps" / json.loads(path.read_text())["digest"], workload)


def quantspec_of(workload_name: str, name: str) -> QuantSpec | None:
    """The QuantSpec of a recipe's result, if it has one."""
    about = _root() / "steps" / digest_of(workload_name, name) / ABOUT
    found = json.loads(about.read_text()).get("quantspec") if name != "base" and about.is_file() else None
    return QuantSpec.from_json(found) if found else None


def digest_of(workload_name: str, name: str) -> str:
    """Which result a recipe's name stands for now; "base" for the model as it is."""
    path = _name_file(workload_name, name)
    return str(json.loads(path.read_text())["digest"]) if path.is_file() else "base"


def _run(module: ModuleType, step: Step, made: Made, workload: Workload, target: Path, threads: int) -> Made:
    """One step; its result is there whole or not at all."""
    scratch = target.with_name(f"{target.name}.scratch")
    scratch.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        made = module.apply(made, Context(workload, scratch, threads), **step.arguments)
    except PyprodError as error:
        raise PyprodError(f"step {step.name}: {error}") from error
    made = replace(made, model=made.model.eval())
    tensors = {key: tensor.detach().contiguous().clone() for key, tensor in made.model.state_dict().items()}
    about: dict[str, Any] = {"notes": list(made.notes), "seconds": time.monotonic() - started}
    if made.quantspec is not None:
        about["quantspec"] = made.quantspec.to_json()
    target.mkdir(exist_ok=True)
    part = target / f".{MODEL}"
    save_file(tensors, part)
    part.replace(target / MODEL)
    write_atomically(target / ABOUT, json.dumps(about, indent=1) + "\n")  # last: it says that all is there
    shutil.rmtree(scratch, ignore_errors=True)
    return made


def _load(folder: Path, workload: Workload) -> Made:
    try:
        state = load_file(folder / MODEL)
        about = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise PyprodError(f"{folder} is damaged ({error}): delete it, and it is made again") from error
    quantspec = QuantSpec.from_json(about["quantspec"]) if "quantspec" in about else None
    return Made(shapes.restore(_own(workload), state), quantspec, tuple(about["notes"]))


def _module(name: str) -> ModuleType:
    """The step's file.

    Raises:
        PyprodError: there is none.
    """
    known = {}
    for room in ROOMS:
        for found in discover.names(room.__name__):
            known[found] = room.__name__
    if name in known:
        module = discover.load(known[name], name)
        if hasattr(module, "apply"):
            return module
    raise PyprodError(discover.unknown("step", name, known))


def _own(workload: Workload) -> torch.nn.Module:
    """The workload's model, to be changed: `Workload.model` may give the same module each time."""
    return copy.deepcopy(workload.model())


def _digests(workload_name: str, workload: Workload, steps: Sequence[Step], threads: int) -> list[str]:
    """After each step, of what its result depends on.

    Weights, rows and file of the workload, the steps so far and the code that they run (`sources`), versions, threads.
    Rows to train on are known by the file that makes them.
    """
    out = hashlib.sha256(f"{workload_name} {threads} {torch.__version__} {version('torch-pruning')}".encode())
    out.update(fingerprint([*workload.model().state_dict().values(), *workload.inputs, *workload.calibration]).encode())
    _update(out, _workload_file(workload_name))
    found = []
    for step, module in zip(steps, map(_module, (step.name for step in steps)), strict=True):
        out.update(json.dumps(_plain(step), sort_keys=True).encode())
        _update(out, Path(str(module.__file__)))
        found.append(out.hexdigest()[:24])
    return found


def _update(out: hashlib._Hash, path: Path) -> None:
    if path.is_file():
        for source in sources(path):
            out.update(source.read_bytes())


def _workload_file(name: str) -> Path:
    """Of a user's ``path/to/file.py:build``, or of a workload here; of one from another package there is none."""
    user, colon, _ = name.rpartition(":")
    return Path(user) if colon else Path(workloads.__path__[0]) / f"{name}.py"


def _plain(step: Step) -> dict[str, Any]:
    return {"step": step.name, **step.arguments}


def _root() -> Path:
    return workloads.cache_dir() / "recipes"


def _name_file(workload_name: str, name: str) -> Path:
    key = hashlib.sha256(workload_name.encode()).hexdigest()[:12]
    readable = "".join(c if c.isalnum() else "_" for c in workload_name.rpartition("/")[2])
    return _root() / "named" / f"{readable}-{key}" / f"{name}.json"
