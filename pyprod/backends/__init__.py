"""Backends: ways to lower a model to something callable; a file each. The file's name is the family's name.

A backend file has a module docstring (its first line is shown by ``pyprod list``) and::

    VARIANTS = {"fp32": Variant("float32", "what it is"), ...}
    def available(variant: str, device: str) -> Unavailable | None: ...   # cheap: no model, no compilation
    def prepare(request: Request) -> Runner: ...

``pyprod list`` and every benchmark name a variant ``family.variant``: "eager.bf16".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from pyprod import discover
from pyprod.types import Granularity, Numerics, PyprodError, QuantSpec, Unavailable


@dataclass(frozen=True)
class Variant:
    """One arithmetic of a backend.

    Attributes:
        numerics: what the heavy operators compute in; fixes how far outputs may be from float32 eager.
        summary: one line for ``pyprod list``.
        attention: whether only models with attention have this variant.
        lowers: the granularities of activations with which it runs what a QuantSpec says; the others run in float, or
            quantize in their own way.
    """

    numerics: Numerics
    summary: str
    attention: bool = False
    lowers: tuple[Granularity, ...] = ()


@dataclass(frozen=True)
class Request:
    """All that a backend may look at when it prepares a model.

    Attributes:
        model: float32 module in eval mode on the CPU; the backend owns it and may change it.
        example: inputs at the batch that will run, on the CPU.
        calibration: rows ``[n, ...]`` for static quantization, shaped like `example`, on the CPU.
        quantspec: what to run in integers; None lets the backend use its default scheme.
        variant: key of the file's VARIANTS.
        device: "cpu" or "cuda".
        threads: intra-op threads; the process is already limited to that many CPUs.
        workdir: an empty folder of this candidate's own.
        cache: a folder that all candidates of a run share, for files that depend on the workload alone
            (an exported ONNX file). Write to a temporary name, then rename: others may be looking.
    """

    model: nn.Module
    example: tuple[Tensor, ...]
    calibration: tuple[Tensor, ...]
    quantspec: QuantSpec | None
    variant: str
    device: str
    threads: int
    workdir: Path
    cache: Path


class Runner(ABC):
    """A model that is built and ready to call."""

    #: Bytes of the file(s) that production would ship.
    artifact_bytes: int
    #: What a reader of the table must know: nodes that fell back, granularity, weights kept in float, hidden NaN.
    notes: tuple[str, ...] = ()
    #: Seconds of building that others did for this candidate through the shared cache, less the time spent waiting
    #: for them: added to the time measured, it gives what the build would have taken alone.
    borrowed_s: float = 0.0

    @abstractmethod
    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """Place one batch of CPU tensors where the backend reads it, and return the call to be timed.

        The call runs the model on that batch, waits until the result is there (synchronizes the device), and
        returns the backend's own output object. Each call computes everything again.

        Raises:
            ValueError: shapes or dtypes differ from the request's example; nothing is padded or recompiled.
        """

    @abstractmethod
    def tensor(self, output: object) -> Tensor:
        """The output of a bound call as a CPU tensor (a copy or a view valid until the next call)."""

    def run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Bind, call, fetch: for checks and scoring, where time does not count."""
        return self.tensor(self.bind(inputs)())


def split(backend: str) -> tuple[ModuleType, str]:
    """From "family.variant" to the family's module and the variant's name.

    Raises:
        Unavailable: a package the family needs is not installed.
        PyprodError: there is no such family or variant; the message suggests near names.
    """
    family, _, variant = backend.partition(".")
    if family not in discover.names(__name__):
        raise PyprodError(discover.unknown("backend", backend, discover.names(__name__)))
    module = discover.load(__name__, family)
    if variant not in module.VARIANTS:
        raise PyprodError(discover.unknown("backend", backend, [f"{family}.{v}" for v in module.VARIANTS]))
    return module, variant


def lowers(backend: str, quantspec: QuantSpec) -> bool:
    """Whether "family.variant" is here and runs what a QuantSpec says."""
    try:
        module, variant = split(backend)
    except Unavailable:
        return False
    known, asked = module.VARIANTS[variant].lowers, {quant.granularity for quant in quantspec.activations.values()}
    return bool(known) and asked <= set(known)


def known(
    device: str = "cpu", families: Container[str] | None = None
) -> Iterator[tuple[str, Variant | None, Unavailable | None]]:
    """Every ``family.variant`` here with its Variant and, if it can't run on `device`, why.

    A family whose package is missing is one row (its variants can't be read): ``(family, None, why)``.

    Args:
        families: to look at these only, as importing one may take seconds; None: at all.
    """
    for family in discover.names(__name__):
        if families is not None and family not in families:
            continue
        try:
            module = discover.load(__name__, family)
        except Unavailable as why:
            yield family, None, why
            continue
        for name, variant in module.VARIANTS.items():
            yield f"{family}.{name}", variant, module.available(name, device)
