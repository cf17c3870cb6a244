"""A recipe file: what forms of a workload to make, how to measure them, and what production demands of one.

```toml
workload = "fashion_mnist"

[recipes.half]
steps = [
    { step = "structured", macs = 0.5 },
    { step = "finetune", epochs = 2, learning_rate = 0.003, distill = { temperature = 4 } },
]

[bench]                       # each may be left out
backends = ["eager.fp32", "native"]
batch = [1, 8]

[require]                     # of the form that is chosen
accuracy_drop = "0.5%"        # of the baseline's accuracy
p99_ms = 10
size_mb = 30

[prefer]
by = "latency"                # or throughput, size, memory

[export]                      # of the form that is chosen
formats = ["onnx"]
```
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pyprod import discover
from pyprod.measure.choose import LIMITS, PREFERENCES
from pyprod.types import PyprodError


@dataclass(frozen=True)
class Step:
    """One step: its name, and its arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Bench:
    """What to measure of each recipe; empty backends: all there are."""

    backends: Sequence[str] = ()
    batch: Sequence[int] = (1,)
    threads: Sequence[int] = (1,)
    device: str = "cpu"
    rounds: int = 10


@dataclass(frozen=True)
class RecipeFile:
    """The file's content.

    Attributes:
        recipes: the steps of each by name, "base" (no steps) among them.
        demands: what the chosen form must keep to, by a name of `pyprod.measure.choose.LIMITS`.
        prefer: a name of `pyprod.measure.choose.PREFERENCES`.
        formats: files to write of the recipe that is chosen.
    """

    workload: str
    recipes: Mapping[str, Sequence[Step]]
    bench: Bench = field(default_factory=Bench)
    demands: Mapping[str, float] = field(default_factory=dict)
    prefer: str = "latency"
    formats: Sequence[str] = ()


def read(path: Path) -> RecipeFile:
    """Read and check one.

    Raises:
        PyprodError: it can't be read, or says something that is not known; the message says where.
    """
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise PyprodError(f"can't read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise PyprodError(f"{path}: {error}") from error
    _known(path, "key", data, ("workload", "recipes", "bench", "require", "prefer", "export"))
    if not isinstance(data.get("workload"), str):
        raise PyprodError(f'{path} names no workload: workload = "digits"')
    _known(path, "key of [prefer]", data.get("prefer", {}), ("by",))
    prefer = data.get("prefer", {}).get("by", "latency")
    _known(path, "preference", [prefer], list(PREFERENCES))
    recipes = {name: _steps(path, name, table) for name, table in data.get("recipes", {}).items()}
    bench = _bench(path, data.get("bench", {}))
    demands = _demands(path, data.get("require", {}))
    return RecipeFile(data["workload"], {"base": (), **recipes}, bench, demands, prefer, _formats(path, data))


def _steps(path: Path, name: str, table: Any) -> list[Step]:
    if "/" in name or name == "base":
        raise PyprodError(f"{path}: a recipe can't be named {name!r}")
    found = table.get("steps") if isinstance(table, dict) else None
    if not isinstance(found, list) or not all(isinstance(s, dict) and isinstance(s.get("step"), str) for s in found):
        raise PyprodError(f'{path}: [recipes.{name}] needs steps = [{{ step = "finetune", ... }}, ...]')
    return [Step(s["step"], {key: value for key, value in s.items() if key != "step"}) for s in found]


def _bench(path: Path, table: Mapping[str, Any]) -> Bench:
    bench: Bench = _table(path, "bench", Bench, table)
    for name in ("batch", "threads"):
        values = getattr(bench, name)
        if not isinstance(values, list | tuple) or not values or not all(_is_count(value) for value in values):
            raise PyprodError(f"{path}: {name} is a list of numbers from 1, such as [1, 8], not {values!r}")
    if not isinstance(bench.backends, list | tuple) or not all(isinstance(name, str) for name in bench.backends):
        raise PyprodError(
            f'{path}: backends is a list of names, such as ["eager", "native.int8"], not {bench.backends!r}'
        )
    if not _is_count(bench.rounds) or bench.device not in ("cpu", "cuda"):
        raise PyprodError(f"{path}: rounds is a number from 1, device cpu or cuda")
    return bench


def _formats(path: Path, data: Mapping[str, Any]) -> Sequence[str]:
    table = data.get("export", {})
    _known(path, "key of [export]", table, ("formats",))
    formats = table.get("formats", [])
    if not isinstance(formats, list):
        raise PyprodError(f'{path}: formats is a list of names, such as ["onnx"], not {formats!r}')
    if formats:
        from pyprod.export import deliver  # which imports torch

        _known(path, "format", formats, list(deliver.formats()))
    return formats


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _demands(path: Path, table: Mapping[str, Any]) -> dict[str, float]:
    _known(path, "key of [require]", table, list(LIMITS))
    found = {}
    for name, value in table.items():
        try:
            found[name] = (
                float(value.removesuffix("%")) / 100 if name == "accuracy_drop" and isinstance(value, str) else value
            )
        except ValueError:
            raise PyprodError(f'{path}: accuracy_drop is a share such as "0.5%", not {value!r}') from None
        if isinstance(found[name], bool) or not isinstance(found[name], int | float) or not found[name] >= 0:
            raise PyprodError(f"{path}: {name} must be a number, at least 0, not {value!r}")
    return found


def _table(path: Path, name: str, kind: Any, table: Mapping[str, Any]) -> Any:
    _known(path, f"key of [{name}]", table, [f.name for f in fields(kind)])
    return kind(**table)


def _known(path: Path, what: str, found: Any, known: Sequence[str]) -> None:
    for name in found:
        if name not in known:
            raise PyprodError(f"{path}: {discover.unknown(what, name, known)}")
