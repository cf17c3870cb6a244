"""How a gate measures: what the command line sets, and the evidence keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyprod.gate.book import ACCURACY, ENERGY, LATENCY, OUTPUT, PEAK_MEMORY, SIZE, THROUGHPUT
from pyprod.measure.decide import Rule


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        budget_s: seconds for all pairs together, starting their processes included.
        threads: CPU threads of each side.
        alternations: times that the sides take turns on a benchmark within a pair; up to `pyprod.gate.run.MOST_TURNS`
            times as many when few benchmarks are left.
        slice_s: seconds that a side is timed for, each time.
        settle_s: seconds of unrecorded calls before: the caches were the other side's.
        least_samples, most_samples: calls in a slice; where calls are long, it takes up to five times as long for the
            least.
        timeout_s: a stage that takes longer has hung.
        throughput, memory, output, size: tolerances beside that of latency, which is in the rule: of calls per second,
            of peak resident memory, of the relative difference of outputs, of the size of built files, and (of records)
            of a model's accuracy.
        select: only benchmarks that match one of these globs; empty for all.
        energy_s: seconds of calls, in each pair, over which joules are read; 0: energy is not measured.
        energy: tolerance of joules per call.
        device: "cpu" or "cuda".
        cold: on a GPU, overwrite the second level cache before each sample.
        seed: of all that is drawn: order, addresses, data.
    """

    budget_s: float = 60.0
    threads: int = 1
    alternations: int = 8
    slice_s: float = 0.004
    settle_s: float = 0.001
    least_samples: int = 15
    most_samples: int = 400
    timeout_s: float = 60.0
    throughput: float = 0.1
    memory: float = 0.02
    output: float = 0.05
    size: float = 0.25
    accuracy: float = 0.01
    energy: float = 0.1
    energy_s: float = 0.0
    device: str = "cpu"
    cold: bool = True
    select: tuple[str, ...] = ()
    seed: int = 0
    realtime: bool = True
    rule: Rule = field(default_factory=Rule)

    def tolerances(self) -> dict[str, float]:
        """By metric."""
        return {
            LATENCY: self.rule.tolerance,
            THROUGHPUT: self.throughput,
            PEAK_MEMORY: self.memory,
            OUTPUT: self.output,
            SIZE: self.size,
            ACCURACY: self.accuracy,
            ENERGY: self.energy,
        }
