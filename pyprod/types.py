"""The values that every room shares. Standard library only: nothing here may import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Numerics = Literal["float32", "bfloat16", "float16", "int8"]


class PyprodError(Exception):
    """Something the user can mend: the message is one line that says what is wrong and what to do."""


class Unavailable(PyprodError):
    """A thing that exists in pyprod and can't run here.

    Args:
        reason: why it can't run on this machine, as a short clause ("no NVIDIA GPU").
        remedy: what the user can do about it ("pip install openvino==2026.4.1"); empty when nothing helps.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason} ({remedy})" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class Mismatch(PyprodError):
    """An output that is wrong: not finite, of the wrong shape, or too far from the reference."""


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """One production form of one model: the only way this project says "this model in that form".

    Attributes:
        workload: name of a file in ``pyprod/workloads``, of an entry point, or ``path/to/file.py:function``.
        backend: ``family.variant``: a file in ``pyprod/backends`` and one of its variants ("eager.bf16").
        recipe: the optimization steps applied to the model before lowering; "base" is the model as trained.
        device: "cpu" or "cuda".
        batch: samples per call, >= 1.
        threads: intra-op CPU threads, >= 1.
    """

    workload: str
    backend: str
    recipe: str = "base"
    device: str = "cpu"
    batch: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.threads < 1:
            raise ValueError(f"batch and threads must be >= 1, got batch={self.batch}, threads={self.threads}")
        for name in ("backend", "recipe", "device"):
            if not getattr(self, name) or "/" in getattr(self, name):
                raise ValueError(f"{name} must be a non-empty name without '/', got {getattr(self, name)!r}")

    @property
    def id(self) -> str:
        """Stable text form, e.g. ``encoder/base/eager.fp32/cpu/b8/t1``; `from_id` is its inverse."""
        return f"{self.workload}/{self.recipe}/{self.backend}/{self.device}/b{self.batch}/t{self.threads}"

    @classmethod
    def from_id(cls, text: str) -> Candidate:
        """Parse `id`. The workload may itself hold slashes (a file path): the other five fields may not."""
        parts = text.rsplit("/", 5)
        if len(parts) != 6 or parts[4][:1] != "b" or parts[5][:1] != "t":
            raise ValueError(f"not a candidate id: {text!r} (want workload/recipe/backend/device/b<N>/t<N>)")
        workload, recipe, backend, device, batch, threads = parts
        return cls(workload, backend, recipe, device, int(batch[1:]), int(threads[1:]))

    @property
    def form(self) -> tuple[str, str, str, str]:
        """What fixes the outputs and the size on disk: batch and threads do not."""
        return (self.workload, self.recipe, self.backend, self.device)

    @property
    def cohort(self) -> tuple[str, str, int, int]:
        """Candidates of one cohort do the same work and are measured interleaved with each other."""
        return (self.workload, self.device, self.batch, self.threads)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a Candidate has no number.

    Attributes:
        kind: "unavailable", "error" (an exception), "mismatch" (wrong output), "crash" (the process died),
            "out_of_memory", "timeout", "skipped" (by a rule that the message names, as too slow to be worth it).
        stage: where it happened: "build", "check", "score", "release", "warmup" or "time".
        message: one line for the table.
        detail: traceback or the tail of the worker's output; may be empty.
    """

    kind: Literal["unavailable", "error", "mismatch", "crash", "out_of_memory", "timeout", "skipped"]
    stage: str
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Raw samples of one metric of one Candidate. Statistics are derived, never stored in their place.

    Attributes:
        metric: "latency", "accuracy", "relative_error", "peak_rss", "pss", "artifact_size", "build_time",
            "first_call", ... ; "failure" when `failure` is set.
        unit: SI or bytes: "ns", "bytes", "s"; for accuracy the statistic ("spearman", "accuracy", ...).
        samples: raw values in the order they were taken.
        round: which interleaved round the samples belong to; 0 when the metric is taken once.
        replica: 0, or 1 for the A/A twin: the same candidate a second time in a process of its own.
        context: what is needed to read the samples (truth labels, notes of the backend), JSON values only.
        taken_at: UTC time, ISO 8601.
    """

    candidate: Candidate
    metric: str
    unit: str
    samples: tuple[float, ...]
    round: int = 0
    replica: int = 0
    failure: Failure | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    taken_at: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` is its inverse. The published schema: pyprod/measure/measurement.schema.json."""
        out: dict[str, Any] = {
            "candidate": asdict(self.candidate),
            "metric": self.metric,
            "unit": self.unit,
            "samples": list(self.samples),
            "round": self.round,
            "replica": self.replica,
            "taken_at": self.taken_at,
        }
        if self.context:
            out["context"] = dict(self.context)
        if self.failure:
            out["failure"] = asdict(self.failure)
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        failure = data.get("failure")
        return cls(
            candidate=Candidate(**data["candidate"]),
            metric=data["metric"],
            unit=data["unit"],
            samples=tuple(data["samples"]),
            round=data["round"],
            replica=data["replica"],
            failure=Failure(**failure) if failure else None,
            context=data.get("context", {}),
            taken_at=data["taken_at"],
        )


Granularity = Literal["per_tensor", "per_channel", "per_token", "per_group"]


@dataclass(frozen=True, slots=True)
class TensorQuant:
    """How one tensor becomes integers: ``q = clamp(round(x / scale) + zero_point)``.

    Attributes:
        granularity: one scale for the tensor, per output channel (weights), or per row (activations); "per_group"
            (weights): for each `group_size` neighboring inputs of an output channel.
        bits: width of the integers.
        scale: one value per tensor or channel; empty when it is computed at run time (dynamic), or of a weight when it
            is quantized, as all that is per group is.
        zero_point: as many as `scale`; empty means symmetric, but per group always from the least to the largest.
        group_size: 0 but per group.
        smoothing: of an activation per token, a value for each channel: divides the channel before, and multiplies the
            column of the layer's weight before that is quantized (SmoothQuant's s, arXiv 2211.10438). Empty: none.
        asymmetric: of an activation per token whose scale is found at run time: so is a zero point for each token.

    Raises:
        ValueError: smoothing of anything but an activation per token, or by a value that is not finite and positive;
            asymmetric anything else.
    """

    granularity: Granularity
    bits: int = 8
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    group_size: int = 0
    smoothing: tuple[float, ...] = ()
    asymmetric: bool = False

    def __post_init__(self) -> None:
        if self.asymmetric and (self.granularity != "per_token" or self.scale):
            raise ValueError("asymmetric is of activations per_token whose scale is found at run time")
        if self.smoothing and self.granularity != "per_token":
            raise ValueError(f"smoothing is of activations per_token, not {self.granularity}")
        if not all(0 < value < math.inf for value in self.smoothing):
            raise ValueError("smoothing divides: it must be finite and positive")


#: Fields of a TensorQuant that JSON has as lists.
_VECTORS = ("scale", "zero_point", "smoothing")


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """Which layers of a float model run in integers, and how: every INT8 backend lowers this same value.

    Attributes:
        weights: by module name (``encoder.layer.0.attention.query``), the weight's quantization.
        activations: by module name, the quantization of that module's input.
    """

    weights: Mapping[str, TensorQuant]
    activations: Mapping[str, TensorQuant]

    def to_json(self) -> dict[str, Any]:
        return {
            "weights": {name: asdict(quant) for name, quant in self.weights.items()},
            "activations": {name: asdict(quant) for name, quant in self.activations.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantSpec:
        def tensors(section: Mapping[str, Any]) -> dict[str, TensorQuant]:
            return {
                name: TensorQuant(**{**q, **{key: tuple(q.get(key, ())) for key in _VECTORS}})
                for name, q in section.items()
            }

        return cls(tensors(data["weights"]), tensors(data["activations"]))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well one form of a model did on real data, example by example.

    Attributes:
        statistic: how `values` (and `truth`) become the metric: "mean" (of 0/1 correctness: accuracy),
            "spearman", "pearson", "roc_auc", "perplexity" (exp of the mean of negative log-likelihoods, nats).
        values: one per example (or per pair of examples).
        truth: what `values` is compared with, same length; empty for "mean" and "perplexity".
        cluster: index of the independent unit each value belongs to, for the bootstrap, same length; empty
            when every value is independent. A value of a pair of examples carries both: ``(i, j)``.
    """

    statistic: Literal["mean", "spearman", "pearson", "roc_auc", "perplexity"]
    values: Sequence[float]
    truth: Sequence[float] = ()
    cluster: Sequence[int] | Sequence[tuple[int, int]] = ()

    @property
    def higher_is_better(self) -> bool:
        return self.statistic != "perplexity"
