"""Mixed precision: as many layers in integers as an accuracy budget allows, the fragile ones in float."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pyprod.measure import statistics
from pyprod.quantize.observe import Observer
from pyprod.quantize.ptq import Scheme, quantspec
from pyprod.quantize.sensitivity import only, outputs, sensitivity
from pyprod.quantize.simulate import simulated
from pyprod.step import Context, Made
from pyprod.types import Evaluation, PyprodError, QuantSpec, Unavailable
from pyprod.workloads import Workload

#: Steps that change weights must come before: `pyprod.recipes` sees to it.
FINDS_SCALES = True

_ROWS = 32  # a pass


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        quantspec: of the layers that run in integers.
        in_float: the others, the most fragile first.
        loss: of the metric, with its 95% interval; above 0 is lost.
    """

    quantspec: QuantSpec
    in_float: tuple[str, ...]
    loss: statistics.Estimate


def apply(
    made: Made,
    context: Context,
    *,
    accuracy_drop: float = 0.005,
    scheme: Scheme = "dynamic",
    observer: Observer = "minmax",
) -> Made:
    """The step: see `search`.

    Args:
        accuracy_drop: share of the float model's metric that may be lost.
    """
    spec = quantspec(made.model, context.workload, scheme, observer)
    found = search(made, context.workload, spec, accuracy_drop)
    kept = f"; in float: {', '.join(found.in_float)}" if found.in_float else ""
    note = f"{len(found.quantspec.weights)} of {len(spec.weights)} layers quantized{kept}"
    return replace(made, quantspec=found.quantspec, notes=(*made.notes, note))


def search(made: Made, workload: Workload, spec: QuantSpec, accuracy_drop: float) -> Found:
    """Leave the layers that cost most (`sensitivity` on the calibration rows) in float, as few as it takes.

    The budget is kept by the estimate on the evaluation rows, simulated; the whole interval is in the result. These
    rows so choose between some `log2(layers)` models: what is measured on them later is a little too good. All layers
    in integers are tried first: by chance they may lose less than all but one do.

    Raises:
        Unavailable: the workload has no metric.
        PyprodError: the budget is no share.
    """
    if workload.score is None:
        raise Unavailable("the workload has no metric to keep to", "use the step ptq")
    if not 0 <= accuracy_drop < 1:
        raise PyprodError(f"accuracy_drop is a share of the metric, not {accuracy_drop:g}")
    base = _evaluate(made, workload)
    budget = accuracy_drop * abs(statistics.score(base))

    def loss(quantized: QuantSpec) -> statistics.Estimate:
        with simulated(made.model, quantized):
            found = statistics.accuracy_difference(_evaluate(made, workload), base)
        return found if not base.higher_is_better else _negative(found)

    best = loss(spec)
    if best.value <= budget:
        return Found(spec, (), best)
    ranked = list(sensitivity(made.model, spec, workload.calibration))
    low, high = 1, len(ranked)  # the fewest that may suffice, and a number that does: all in float lose nothing
    best = statistics.Estimate(0.0, 0.0, 0.0, len(base.values))
    while low < high:
        middle = (low + high) // 2
        found = loss(only(spec, ranked[middle:]))
        if found.value <= budget:
            high, best = middle, found
        else:
            low = middle + 1
    return Found(only(spec, ranked[high:]), tuple(ranked[:high]), best)


def _evaluate(made: Made, workload: Workload) -> Evaluation:
    assert workload.score is not None
    kept = []
    for start in range(0, workload.inputs[0].shape[0], _ROWS):
        found = outputs(made.model, tuple(t[start : start + _ROWS] for t in workload.inputs))
        kept.append(workload.reduce(found.float(), start))
    return workload.score(torch.cat(kept))


def _negative(estimate: statistics.Estimate) -> statistics.Estimate:
    return statistics.Estimate(-estimate.value, -estimate.high, -estimate.low, estimate.n)
