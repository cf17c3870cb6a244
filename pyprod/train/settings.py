"""What a training is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pyprod.train.precision import PRECISIONS, Precision
from pyprod.types import PyprodError

#: From model, inputs, targets and row numbers of a batch to its loss, a scalar: the mean over the batch.
Objective = Callable[[nn.Module, tuple[Tensor, ...], Tensor, Tensor], Tensor]

#: Called with the model and the share of the training that is done: 0 before the first step, then after each, up to 1.
Callback = Callable[[nn.Module, float], None]


class Diverged(PyprodError):
    """The loss or the gradients are not finite."""


@dataclass(frozen=True)
class Settings:
    """How to train. What is None is the data's own (`pyprod.workloads.Training`).

    Attributes:
        epochs: passes over the data, in a new random order each.
        batch: rows per step; the last, incomplete batch of an epoch is left out.
        learning_rate: of AdamW, the highest.
        weight_decay: of AdamW.
        schedule: "one_cycle" rises over the first 30% of the steps and falls to almost zero (Smith 2018), "constant".
        accumulate: parts that a batch is run in, one after the other, for memory: gradients are of the whole.
        precision: "float32", or autocast to "bfloat16" or "float16" (with a scaled loss).
        clip_norm: gradients are scaled down to this L2 norm; None leaves them.
        holdout: share of the rows that are not trained on but give a loss after each epoch.
        patience: epochs without a better held-out loss that end the training; 0: none does. The best weights count.
        seed: of weights, order, augmentation, dropout and which rows are held out.
        threads: sums are split by thread, so the bits of the result depend on their number.
        device: "cpu" or "cuda".
        checkpoint_steps: steps from one checkpoint to the next; 0: one after each epoch.
    """

    epochs: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    schedule: str = "one_cycle"
    accumulate: int = 1
    precision: Precision = "float32"
    clip_norm: float | None = None
    holdout: float = 0.0
    patience: int = 0
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        positive = (self.epochs, self.batch, self.learning_rate, self.clip_norm, self.accumulate, self.threads)
        if any(value is not None and not value > 0 for value in positive):
            raise PyprodError("epochs, batch, learning_rate, clip_norm, accumulate and threads must be above 0")
        if self.precision not in PRECISIONS or self.schedule not in ("one_cycle", "constant"):
            raise PyprodError(f"no precision {self.precision!r} or no schedule {self.schedule!r}")
        if not 0 <= self.holdout < 1 or (self.patience and not self.holdout):
            raise PyprodError("holdout is a share of the rows below 1, and patience needs one")


@dataclass(frozen=True)
class Epoch:
    """What is known after a pass over the data.

    Attributes:
        loss: mean over its steps.
        held_out: loss of the rows held out; NaN without any.
        skipped: steps so far that were left out because a gradient was not finite.
        scale: what the loss is multiplied by now.
    """

    loss: float
    held_out: float
    skipped: int
    scale: float


@dataclass(frozen=True)
class Fitted:
    """What `fit` gives.

    Attributes:
        model: in eval mode.
        history: an entry per epoch.
        steps: taken, those before a resume included.
        skipped: of these, left out because a gradient was not finite.
        resumed_at: the step that this call began with.
        stopped_early: whether patience ended it.
    """

    model: nn.Module
    history: Sequence[Epoch]
    steps: int
    skipped: int
    resumed_at: int = 0
    stopped_early: bool = False
