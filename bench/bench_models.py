"""Models in every production form, over commits: what ``pyprod bench`` measures, as asv shows it.

asv calls every increase a regression, so all that is tracked is better when lower: throughput appears as seconds per
sample, accuracy as what is missing to 1.

Environment, comma-separated, to measure more than the small default:
    PYPROD_ASV_WORKLOADS: names, files (``mymodel.py:build``) or "all"; default "digits".
    PYPROD_ASV_BACKENDS: families or ``family.variant``; default all.
    PYPROD_ASV_DEVICES, PYPROD_ASV_BATCHES, PYPROD_ASV_THREADS: default "cpu", "1", "1".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pyprod import backends, bench, environment, workloads
from pyprod.measure import report
from pyprod.measure.heat import Settings
from pyprod.progress import Bar
from pyprod.types import Candidate, Measurement


def chosen(what: str, default: str) -> list[str]:
    return [name for name in os.environ.get(f"PYPROD_ASV_{what}", default).split(",") if name]


def chosen_backends() -> list[str]:
    known = list(dict.fromkeys(name for device in DEVICES for name, _, _ in backends.known(device)))
    wanted = chosen("BACKENDS", "")
    return [name for name in known if not wanted or name in wanted or name.partition(".")[0] in wanted]


WORKLOADS = chosen("WORKLOADS", "digits")
if WORKLOADS == ["all"]:
    WORKLOADS = workloads.known()
DEVICES = chosen("DEVICES", "cpu")
BACKENDS = chosen_backends()
BATCHES = [int(n) for n in chosen("BATCHES", "1")]
THREADS = [int(n) for n in chosen("THREADS", "1")]

#: A tenth of the time that ``pyprod bench`` takes per candidate: a trend over commits has many points.
SETTINGS = Settings(rounds=3, slice_s=0.1, warmup_s=0.5)

Rows = dict[str, dict[str, Any]]
Track = TypeVar("Track", bound=Callable[..., float])


def shown(unit: str, name: str) -> Callable[[Track], Track]:
    """How asv writes the numbers of a benchmark, and what it calls it on the published pages."""

    def name_it(track: Track) -> Track:
        vars(track).update(unit=unit, pretty_name=name)
        return track

    return name_it


class Models:
    params = (WORKLOADS, BACKENDS, DEVICES, BATCHES, THREADS)
    param_names = ("workload", "backend", "device", "batch", "threads")
    timeout = 3600

    def setup_cache(self) -> Rows:
        """Measure all candidates once, side by side; the benchmarks below only look things up."""
        candidates = bench.select(
            workload_names=WORKLOADS,
            backend_names=BACKENDS,
            devices=DEVICES,
            batches=BATCHES,
            threads=[n for n in THREADS if n <= len(environment.allowed_cpus())],
        )
        measurements: list[Measurement] = []
        with Bar("measuring") as bar:
            # Not the user's cache: what another commit exported must not be measured as this one's.
            cache = Path("artifacts").resolve()  # asv runs this in a temporary folder
            bench.measure(bench.Plan(candidates, SETTINGS), measurements.append, bar, cache=cache)
        rows: Rows = report.summarize(measurements).set_index("candidate").to_dict("index")
        return rows

    def setup(self, rows: Rows, workload: str, backend: str, device: str, batch: int, threads: int) -> None:
        candidate = Candidate(workload, backend, "base", device, batch, threads)
        if candidate.id not in rows:
            raise NotImplementedError(f"{candidate.id}: needs {threads} CPUs")
        self.row = rows[candidate.id]
        if self.row["status"] == "unavailable":
            raise NotImplementedError(f"{candidate.id}: {self.row['failure_message']}")
        if self.row["status"] != "ok":
            raise RuntimeError(f"{candidate.id}: {self.row['status']}: {self.row['failure_message']}")

    @shown("seconds", "latency, median")
    def track_latency(self, *_: object) -> float:
        return float(self.row["latency_p50_ms"]) * 1e-3

    @shown("seconds", "throughput, as seconds per sample")
    def track_inverse_throughput(self, *_: object) -> float:
        return 1 / float(self.row["throughput_per_s"])

    @shown("bytes", "peak memory of the process")
    def track_peak_memory(self, *_: object) -> float:
        return float(self.row["peak_rss_mb"]) * 1e6

    @shown("bytes", "size of what is shipped")
    def track_size(self, *_: object) -> float:
        return float(self.row["artifact_mb"]) * 1e6

    @shown("1 - accuracy", "accuracy, as 1 - metric (perplexity: as it is)")
    def track_inaccuracy(self, *_: object) -> float:
        accuracy = float(self.row["accuracy"])
        return accuracy if self.row["statistic"] == "perplexity" else round(1 - accuracy, 6)
