"""Who computes: a file per peer, its name is its registration. A missing package makes its rows "unavailable".

A module here defines

- ``VARIANTS: dict[str, Variant]``: which forms it has, and which kinds of problem each can do;
- ``available(variant) -> Unavailable | None``: why one can't run here. Cheap;
- ``prepare(problem, variant, threads, workdir) -> Prepared``: weights lowered, once for any number of rows.

A peer is told its threads before it starts, by the environment and ``torch.set_num_threads``; runtimes with pools of
their own set them too, and let no thread spin between calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from pyprod import discover
from pyprod.types import PyprodError, Unavailable


class Variant(NamedTuple):
    """One form of a peer.

    Attributes:
        kinds: names of the problems that it can do.
        numerics: what decides how exact its answer must be: "float32", "bfloat16" or "int8".
        about: what it is, for the report.
    """

    kinds: tuple[str, ...]
    numerics: str
    about: str


class Prepared(Protocol):
    """A problem lowered: rows of any number can be bound to it."""

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """The call to be timed on these rows, which do not change; it does all the work each time."""

    def tensors(self, output: Any) -> tuple[Tensor, ...]:
        """What a call returned, as tensors."""


class TorchPrepared:
    """A function of tensors."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """A call without arguments; the worker's process has gradients switched off."""
        return functools.partial(self._function, *inputs)

    def tensors(self, output: Any) -> tuple[Tensor, ...]:
        """One tensor or several."""
        return output if isinstance(output, tuple) else (output,)


def known() -> Iterator[tuple[str, Variant | None, Unavailable | None]]:
    """Every "family.variant" and why it can't run here; a family whose package is missing has no variants to name."""
    for family in discover.names(__name__):
        try:
            found = discover.load(__name__, family)
        except Unavailable as why:
            yield f"{family}.any", None, why
            continue
        for name, variant in found.VARIANTS.items():
            yield f"{family}.{name}", variant, found.available(name)


@functools.cache
def unavailable(backend: str) -> PyprodError | None:
    """Why "family.variant" can't run here, or None."""
    try:
        module, variant = split(backend)
    except PyprodError as why:
        return why
    found: Unavailable | None = module.available(variant)
    return found


def split(backend: str) -> tuple[ModuleType, str]:
    """The module and variant of "family.variant".

    Raises:
        Unavailable: its package is missing.
        PyprodError: there is none such.
    """
    family, _, variant = backend.partition(".")
    found = discover.load(__name__, family)
    if variant not in found.VARIANTS:
        raise PyprodError(discover.unknown("peer", backend, (f"{family}.{name}" for name in found.VARIANTS)))
    return found, variant
