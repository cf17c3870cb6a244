"""What is computed: a file per kind of problem, with its sizes, its data, its right answer and its least cost.

A module here defines

- ``SIZES``: the sizes that the suite measures, as the keyword arguments of ``build`` and ``cost``;
- ``BATCHES``: the numbers of rows;
- ``THREADS``, if it is not measured with any number of them: those that it is;
- ``OURS``: the peers that are pyprod's own, "family.variant";
- ``PATTERN``: what of the memory ceilings bounds it, "read" or "copy";
- ``build(**sizes)``: the `Problem`;
- ``cost(m, **sizes)``: the least that m rows cost, whoever computes them;
- ``working_set(m, **sizes)``, if it is not ``cost(...).bytes``: what calls go through before a byte comes again.

A problem that has ``copies`` is lowered so often, and calls take the copies in turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Protocol

from torch import Tensor

from pyprod import discover
from pyprod.types import PyprodError

#: Every linear and GEMM is measured with so many rows: the issue's decode, small-batch and prefill sizes.
ROWS = (1, 4, 8, 16, 32, 64, 128, 512, 2048)


class Problem(Protocol):
    """One problem with its weights; rows come with `inputs`."""

    def inputs(self, m: int) -> tuple[Tensor, ...]:
        """The same m rows for every peer."""

    def check(self, outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], numerics: str) -> float:
        """How wrong `outputs` is, in the measure of this kind.

        Raises:
            Mismatch: it is further off than arithmetic in `numerics` explains, of another shape, or not finite.
        """


@cache  # a table asks tens of thousands of times
def kinds() -> list[str]:
    """Every kind of problem."""
    return discover.names(__name__)


@cache
def module(kind: str) -> ModuleType:
    """The file of one kind."""
    return discover.load(__name__, kind)


def name(kind: str, sizes: Mapping[str, int]) -> str:
    """``linear/n768-k3072``: the workload of a Candidate."""
    return f"{kind}/" + "-".join(f"{key}{value}" for key, value in sizes.items())


def parse(workload: str) -> tuple[str, dict[str, int]]:
    """Kind and sizes of a name; `name` is its inverse.

    Raises:
        PyprodError: it is not such a name.
    """
    kind, _, sizes = workload.partition("/")
    found = [re.fullmatch(r"([a-z]+)([0-9]+)", part) for part in sizes.split("-")]
    if kind not in kinds() or not all(found):
        raise PyprodError(f"not a problem: {workload!r} (want e.g. linear/n768-k768; kinds: {', '.join(kinds())})")
    return kind, {match[1]: int(match[2]) for match in found if match}
