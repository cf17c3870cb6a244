"""Whether a runtime gives what the model gives: on real rows, and on random rows of random shapes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyprod.export.order import Reader
from pyprod.workloads import Dimension

#: Of an output vector (along the last axis) the L2 norm of the difference, over the root mean square of the norms of
#: the model's output vectors on real rows. A float32 model of 6 layers in another order of summation stays below 4e-6.
FLOAT32 = 1e-5

#: The same for integers: a value within float32's rounding of the middle between two integers goes to either.
INT8 = 2e-2

#: The same for a quantized file against the float model; what its metric loses says more.
QUANTIZED = 0.5

#: Rows of a batch of real rows; the sizes vary, as a batch of one is often another path.
_BATCHES = (1, 2, 7, 16)


@dataclass(frozen=True)
class Parity:
    """One runtime against the model.

    Attributes:
        reader: the runtime.
        rows: "real" or "random".
        calls: compared.
        error: the largest of them; infinite where an output has another shape, or is not finite where the model's is.
        shape: of the inputs of that call.
        tolerance: what is allowed.
        problem: why the runtime could not be asked.
    """

    reader: str
    rows: str
    calls: int
    error: float
    shape: str
    tolerance: float
    problem: str = ""

    @property
    def holds(self) -> bool:
        """False for NaN."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        what = f"{self.reader} on {self.rows} rows {self.shape}"
        return f"{what}: {self.problem or f'differs by {self.error:.2g}, {self.tolerance:g} allowed'}"


def answers(model: nn.Module, calls: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """What the model gives, call by call."""
    with torch.inference_mode():
        return [model(*inputs) for inputs in calls]


def compare(
    wants: Sequence[Tensor],
    readers: Mapping[str, Reader],
    calls: Sequence[tuple[Tensor, ...]],
    rows: str,
    scale: float,
    tolerance: float = FLOAT32,
    progress: Callable[[str], None] = lambda what: None,
) -> list[Parity]:
    """Every reader against the model, on the inputs of `calls`.

    Args:
        wants: the model's `answers`.
        scale: see `norm`.
        progress: called after each call, with what was compared.
    """
    worst = {name: Parity(name, rows, len(calls), 0.0, "", tolerance) for name in readers}
    for inputs, want in zip(calls, wants, strict=True):
        shape = " ".join(str(list(t.shape)) for t in inputs)
        for name, reader in readers.items():
            if worst[name].problem:
                continue
            try:
                error, problem = difference(reader(inputs), want, scale), ""
            except Exception as failure:  # whatever a runtime raises is a miss of its own, and stops no other
                error, problem = math.inf, f"{type(failure).__name__}: {str(failure).strip().splitlines()[0][:300]}"
            if not error <= worst[name].error:
                worst[name] = Parity(name, rows, len(calls), error, shape, tolerance, problem)
        progress(f"{rows} rows {shape}")
    return list(worst.values())


def difference(got: Tensor, want: Tensor, scale: float) -> float:
    """Largest norm of a vector's difference over `scale`; infinite where shapes differ, or what is not finite."""
    if got.shape != want.shape or not torch.equal(got.isnan(), want.isnan()):
        return math.inf
    same = (got == want) | got.isnan()  # infinities too
    apart = torch.where(same, 0.0, got.double() - want.double())
    if not apart.numel():
        return 0.0
    return float(apart.norm(dim=-1).max()) / scale


def spread(wants: Sequence[Tensor], twin: nn.Module, calls: Sequence[tuple[Tensor, ...]], scale: float) -> float:
    """How far rounding alone drives right answers apart: the largest difference of the model's `jittered` twin.

    A model that rounds activations to integers is a staircase: 1e-7 decides on which step a value lands, and six
    layers later the outputs differ by percents.
    """
    found = [difference(got, want, scale) for got, want in zip(answers(twin, calls), wants, strict=True)]
    return max(found, default=0.0)


def jittered(model: nn.Module) -> nn.Module:
    """A copy with each float parameter off by at most a unit in its last place, 2^-23 of it."""
    twin, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            off = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 2 - 1
            parameter.copy_(parameter.double() * (1 + 2**-23 * off))
    return twin


def norm(wants: Sequence[Tensor]) -> float:
    """Root mean square of the norms of the model's output vectors, those that are not finite left out."""
    norms = torch.cat([answer.double().norm(dim=-1).flatten() for answer in wants])
    found = float(norms[norms.isfinite()].square().mean().sqrt())
    return found if found > 0 else 1.0  # NaN too: without a finite output there is nothing to compare with


def real(inputs: tuple[Tensor, ...], axes: Sequence[Mapping[int, str]], most: int) -> list[tuple[Tensor, ...]]:
    """The first rows, in batches of several sizes where the batch is open, else of the example's."""
    calls: list[tuple[Tensor, ...]] = []
    start, count = 0, min(most, len(inputs[0]))
    while start < count:
        size = _BATCHES[len(calls) % len(_BATCHES)] if 0 in axes[0] else len(inputs[0])
        calls.append(tuple(t[start : min(start + size, count)] for t in inputs))
        start += size
    return calls


def batches(most: int) -> int:
    """How many calls `real` makes of so many rows, where the batch is open."""
    whole, left = divmod(most, sum(_BATCHES))
    return whole * len(_BATCHES) + sum(left > sum(_BATCHES[:i]) for i in range(len(_BATCHES)))


def random(
    inputs: tuple[Tensor, ...],
    axes: Sequence[Mapping[int, str]],
    dimensions: Sequence[Dimension],
    count: int,
    most_rows: int = 8,
    seed: int = 0,
) -> Iterator[tuple[Tensor, ...]]:
    """`count` inputs of random sizes along the open axes, among them the least and the largest of each.

    Numbers are normal with mean and deviation of the real rows at their place; integers are drawn from those that
    real rows have there: any other may not be in a vocabulary.
    """
    generator = torch.Generator().manual_seed(seed)
    bounds = {d.name: (d.least, d.most or 2 * max(inputs[p].shape[a] for p, a in d.axes)) for d in dimensions}
    bounds["batch"] = (1, most_rows)
    names = sorted({name for open_ in axes for name in open_.values()})
    for number in range(count):
        sizes = {name: _size(bounds[name], number, generator) for name in names}
        yield tuple(
            _draw(t, {axis: sizes[name] for axis, name in open_.items()}, generator)
            for t, open_ in zip(inputs, axes, strict=True)
        )


def mixed(inputs: tuple[Tensor, ...], open_batch: bool) -> tuple[Tensor, ...]:
    """Rows for a comparison step by step: two real ones and, where the batch is open, two random ones.

    The random ones reach weights that no real row does: columns of a table that are zero in nearly every row.
    """
    if not open_batch:
        return inputs
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.cat([t[:2], _draw(t, {0: 2}, generator)]) for t in inputs)


def _size(bounds: tuple[int, int], number: int, generator: torch.Generator) -> int:
    low, high = bounds
    if number < 2:
        return bounds[number]
    return int(torch.randint(low, high + 1, (), generator=generator))


def _draw(rows: Tensor, sizes: Mapping[int, int], generator: torch.Generator) -> Tensor:
    """A tensor like `rows`, of other sizes along some axes."""
    sizes = {0: rows.shape[0], **sizes}
    if rows.is_floating_point():
        shape = [sizes.get(axis, size) for axis, size in enumerate(rows.shape)]
        mean = rows.mean(list(sizes), keepdim=True)
        deviation = rows.std(list(sizes), correction=0, keepdim=True)
        return torch.randn(shape, generator=generator, dtype=rows.dtype) * deviation + mean
    for axis, size in sizes.items():
        rows = rows.index_select(axis, torch.randint(rows.shape[axis], (size,), generator=generator))
    return rows
