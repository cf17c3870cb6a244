"""A workload's recipe as files for production, each held against the model before it gets its name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from pyprod import __version__, discover, recipes, workloads
from pyprod.export import deliver, onnx_file, parity
from pyprod.export.deliver import Check, Delivery, Rejected
from pyprod.export.order import Order, Reader
from pyprod.measure import statistics
from pyprod.quantize.simulate import simulation
from pyprod.step import Made
from pyprod.types import Evaluation, PyprodError, Unavailable
from pyprod.workloads import Workload, fingerprint

Progress = Callable[[str], None]

#: What a file may differ from its reference by, by the format's numerics.
_TOLERANCES = {"float32": parity.FLOAT32, "simulated": parity.INT8, "quantized": parity.QUANTIZED}

_CALIBRATION_ROWS = 32
_SCORED_AT_ONCE = 16


@dataclass(frozen=True)
class Settings:
    """How files are written and checked.

    Attributes:
        opset: of ONNX.
        fixed: leave no dimension open but the batch.
        external_data: weights of ONNX files in files of their own; None: where one file can't hold them.
        rows: real rows that runtimes are compared on.
        shapes: random inputs of random sizes that they are compared on.
        threads: CPU threads.
        accuracy_drop: share of the metric that a format which quantizes by itself may lose.
    """

    opset: int = onnx_file.OPSET
    fixed: bool = False
    external_data: bool | None = None
    rows: int = 64
    shapes: int = 20
    threads: int = 1
    accuracy_drop: float = 0.005


@dataclass(frozen=True)
class Outcome:
    """What came of one format: a file, a file that was rejected, or why there is none.

    Attributes:
        delivery: None where there is no file.
        unsuited: the format can't hold this model, and nothing went wrong.
    """

    format: str
    delivery: Delivery | None
    problem: str = ""
    unsuited: bool = False


def write(
    workload_name: str, recipe: str, formats: Sequence[str], out: Path, settings: Settings, progress: Progress
) -> list[Outcome]:
    """Write a recipe's model in each format; one that fails does not keep the others.

    Raises:
        PyprodError: there is no such workload, recipe or format.
    """
    known = deliver.formats()
    for name in formats:
        if name not in known:
            raise PyprodError(discover.unknown("format", name, known))
    workload = workloads.load(workload_name)
    order, made = _order(workload_name, recipe, workload, settings, progress)
    stem = workload_name.rpartition("/")[2].partition(".py:")[0] + ("" if recipe == "base" else f".{recipe}")
    found = []
    for name in formats:
        path = out / f"{stem}{known[name].SUFFIX}"
        try:
            check = _check(known[name].NUMERICS, workload, made, settings)
            found.append(Outcome(name, deliver.deliver(order, name, path, check, progress)))
        except Rejected as rejected:
            found.append(Outcome(name, rejected.delivery, str(rejected)))
        except PyprodError as error:
            found.append(Outcome(name, None, str(error), isinstance(error, Unavailable)))
    return found


def steps(settings: Settings) -> int:
    """Of progress that a format makes, where its batch is open: writing, the steps of the model, each call compared."""
    return 2 + parity.batches(settings.rows) + settings.shapes


def check(workload_name: str, recipe: str, path: Path, settings: Settings, progress: Progress) -> Delivery:
    """Hold an ONNX file that is there already against the model.

    Raises:
        PyprodError: it can't be read, or was made from another model.
    """
    workload = workloads.load(workload_name)
    onnx_file.load(path)  # before minutes of work
    order, made = _order(workload_name, recipe, workload, settings, progress)
    return deliver.examine(order, path, _check("float32", workload, made, settings), progress)


def _order(
    workload_name: str, recipe: str, workload: Workload, settings: Settings, progress: Progress
) -> tuple[Order, Made]:
    made = Made(workload.model()) if recipe == "base" else recipes.load(workload_name, recipe, workload)
    about = {
        "producer": f"pyprod {__version__}",
        "workload": workload_name,
        "recipe": recipe,
        "weights": fingerprint(made.model.state_dict().values()),
        "torch": torch.__version__,
    }
    order = Order(
        model=made.model,
        example=workload.example(2),
        dimensions=() if settings.fixed else tuple(workload.dimensions),
        quantspec=made.quantspec,
        metadata={**about, **workload.metadata},
        opset=settings.opset,
        external_data=settings.external_data,
        threads=settings.threads,
        calibration=tuple(t[:_CALIBRATION_ROWS] for t in workload.calibration),
        judge=None if workload.score is None else _judge(made.model, workload),
        budget=settings.accuracy_drop,
        progress=progress,
    )
    return order, made


def _judge(model: torch.nn.Module, workload: Workload) -> Callable[[Reader], float]:
    """From a reader to the share of the model's metric that it loses on the evaluation rows."""

    @cache  # of the model itself: once, and only if a format asks
    def base() -> Evaluation:
        return _evaluate(lambda inputs: model(*inputs), workload)

    def loss(reader: Reader) -> float:
        own, whole = statistics.score(_evaluate(reader, workload)), statistics.score(base())
        lost = (whole - own) / abs(whole) if whole else math.nan
        return lost if base().higher_is_better else -lost

    return loss


def _evaluate(reader: Reader, workload: Workload) -> Evaluation:
    assert workload.score is not None
    rows, kept = len(workload.inputs[0]), []
    with torch.inference_mode():
        for start in range(0, rows, _SCORED_AT_ONCE):
            outputs = reader(tuple(t[start : start + _SCORED_AT_ONCE] for t in workload.inputs))
            kept.append(workload.reduce(outputs, start).clone())
    return workload.score(torch.cat(kept))


def _check(numerics: str, workload: Workload, made: Made, settings: Settings) -> Check:
    reference, tolerance, twin = made.model, _TOLERANCES[numerics], None
    if numerics == "simulated" and made.quantspec is not None:
        reference = simulation(copy.deepcopy(made.model), made.quantspec)
        twin = parity.jittered(reference)
    shapes = settings.shapes if numerics != "quantized" else 0  # scales are of real rows: random ones lie outside
    return Check(workload.inputs, reference, settings.rows, shapes, tolerance, twin)
