"""What can be measured: the two small values that a worker process and its parent exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class Observation(NamedTuple):
    """One metric as a worker reports it; the parent adds whose it is and when (`pyprod.types.Measurement`)."""

    metric: str
    unit: str
    samples: Sequence[float]
    context: Mapping[str, Any] = {}


class Subject(Protocol):
    """A thing to measure, in a process of its own. Stages run in this order, each at most once.

    Any stage may raise: `Unavailable` and `Mismatch` become failures of that kind, anything else an error.
    """

    def build(self) -> list[Observation]:
        """Make the thing callable; everything that costs time or memory happens here, not on import."""

    def check(self) -> list[Observation]:
        """Compare its output with a trusted one; raise `Mismatch` when it is wrong."""

    def score(self) -> list[Observation]:
        """Judge its output on real data; empty when there is nothing to judge."""

    def release(self) -> None:
        """Let go of what only the stages above needed: what is left is what production would hold."""

    def memory(self) -> list[Observation]:
        """Device memory in use at its peak, after timing; empty where only the process's own memory counts."""

    @property
    def call(self) -> Callable[[], object]:
        """The call to be timed: does all the work each time, and returns when the result is there."""

    @property
    def samples_per_call(self) -> int:
        """How many samples one call handles: throughput is counted in them."""
