"""The loop. What happens is a function of settings, data and seed: after a kill, it ends in the same bits.

That is of one machine and one version of PyTorch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from pyprod.train import checkpoint
from pyprod.train.checkpoint import Checkpoint
from pyprod.train.precision import Arithmetic
from pyprod.train.settings import Callback, Diverged, Epoch, Fitted, Objective, Settings
from pyprod.types import PyprodError
from pyprod.workloads import Training

#: Steps without a finite gradient, one after the other, that end a run. float16 halves its scale each time: from 2^16
#: to 1 it takes 16.
MOST_SKIPPED = 20


def fit(
    model: Callable[[], nn.Module],
    data: Training,
    settings: Settings | None = None,
    *,
    objective: Objective | None = None,
    callbacks: Sequence[Callback] = (),
    folder: Path | None = None,
    title: str = "training",
) -> Fitted:
    """Train a model. With a folder, it writes checkpoints there, and goes on from one that it finds.

    Args:
        model: makes the model, or gives one that is to be trained further; called once the generator is seeded.
        objective: what is made small; by default the data's own loss of the model's outputs.
        callbacks: called in this order; they may change the model's parameters and buffers (add some before the first
            step), and must keep nothing that is not in these. A run that goes on calls them with 0 first, too.
        folder: for ``checkpoint.safetensors``.
        title: beside the progress bar, which is shown on a terminal; without one there is none.

    Raises:
        Diverged: the loss, or `MOST_SKIPPED` gradients one after the other, were not finite; the last checkpoint is
            of before.
        PyprodError: the checkpoint is damaged or of another run, or can't be written; the data is too small.
    """
    settings = settings or Settings()
    with _deterministic(settings):
        run = _Run(model, data, settings, objective or supervised(data), callbacks, folder)
        with _bar(run, title) as advance:
            while not run.done:
                run.step()
                advance()
    return run.result()


def supervised(data: Training) -> Objective:
    """The data's own loss of the model's outputs."""

    def objective(model: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor, rows: Tensor) -> Tensor:
        return data.loss(model(*inputs), targets)

    return objective


@dataclass
class _Progress:
    """What a checkpoint says beside tensors."""

    step: int = 0
    skipped_in_a_row: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[Epoch] = field(default_factory=list)
    best: float = math.inf
    best_epoch: int = -1
    stopped_early: bool = False


class _Run:
    """A training run between two steps."""

    def __init__(
        self,
        model: Callable[[], nn.Module],
        data: Training,
        settings: Settings,
        objective: Objective,
        callbacks: Sequence[Callback],
        folder: Path | None,
    ) -> None:
        self._data, self._settings, self._objective, self._callbacks = data, settings, objective, callbacks
        self._path = folder / checkpoint.NAME if folder else None
        self._epochs = settings.epochs or data.epochs
        self._batch = settings.batch or data.batch
        self._rows, self._held_out = _split(len(data.targets), settings)
        self._steps = len(self._rows) // self._batch  # in an epoch
        if not self._steps:
            raise PyprodError(f"{len(self._rows)} rows to train on are less than a batch of {self._batch}")
        if self._batch % settings.accumulate:
            raise PyprodError(f"a batch of {self._batch} can't be run in {settings.accumulate} equal parts")
        torch.manual_seed(settings.seed)
        self._model = model().to(settings.device).train()
        for callback in callbacks:
            callback(self._model, 0.0)
        learning_rate = settings.learning_rate or data.learning_rate
        decay = data.weight_decay if settings.weight_decay is None else settings.weight_decay
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=decay)
        self._schedule = _schedule(self._optimizer, settings.schedule, learning_rate, self.total)
        self._arithmetic = Arithmetic(settings.precision, settings.device)
        self._order = torch.empty(0, dtype=torch.int64)
        self._best: dict[str, Tensor] = {}
        self.now = _Progress()
        if self._path and self._path.exists():
            self._restore(checkpoint.load(self._path))
        self.resumed_at = self.now.step

    @property
    def total(self) -> int:
        """Steps, if nothing ends it early."""
        return self._epochs * self._steps

    @property
    def done(self) -> bool:
        return self.now.step >= self.total or self.now.stopped_early

    def step(self) -> None:
        """One, and what follows from it."""
        position = self.now.step % self._steps
        if not position:
            self._order = self._rows[torch.randperm(len(self._rows))]
        self._train(self._order[position * self._batch :][: self._batch])
        with warnings.catch_warnings():  # where the first step was skipped, that is meant
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self._schedule.step()
        self.now.step += 1
        for callback in self._callbacks:
            callback(self._model, self.now.step / self.total)
        ended = self.now.step % self._steps == 0
        if ended:
            self._end_epoch()
        if self._path and (self.now.step % (self._settings.checkpoint_steps or self._steps) == 0 or self.done):
            checkpoint.save(self._path, self._checkpoint())

    def result(self) -> Fitted:
        """The best model where rows are held out and patience is asked for, else the last."""
        if self._settings.patience:
            self._model.load_state_dict(self._best)
        now = self.now
        skipped = self._arithmetic.skipped
        return Fitted(self._model.eval(), now.history, now.step, skipped, self.resumed_at, now.stopped_early)

    def _train(self, rows: Tensor) -> None:
        self._optimizer.zero_grad()
        parts = rows.chunk(self._settings.accumulate)
        loss = sum(self._backward(part, len(parts)) for part in parts)
        if not math.isfinite(loss):
            raise Diverged(self._why(f"the loss is {loss}"))
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        stepped = self._arithmetic.step(self._optimizer, parameters, self._settings.clip_norm)
        self.now.losses.append(loss)
        self.now.skipped_in_a_row = 0 if stepped else self.now.skipped_in_a_row + 1
        if self.now.skipped_in_a_row >= MOST_SKIPPED:
            raise Diverged(self._why(f"no gradient was finite in {MOST_SKIPPED} steps"))

    def _backward(self, rows: Tensor, parts: int) -> float:
        first, *others = (t[rows].to(self._settings.device) for t in self._data.inputs)
        targets = self._data.targets[rows].to(self._settings.device)
        inputs = (self._data.augment(first), *others)
        with self._arithmetic.forward():
            loss = self._objective(self._model, inputs, targets, rows) / parts
        self._arithmetic.backward(loss)
        return float(loss.detach())

    def _why(self, what: str) -> str:
        kept = f"; {self._path} is of before" if self._path and self._path.exists() else ""
        hint = "lower the learning rate, or give clip_norm"
        return f"{what} at step {self.now.step + 1} of {self.total}: {hint}{kept}"

    def _end_epoch(self) -> None:
        now = self.now
        found = self._held_out_loss()
        loss = math.fsum(now.losses) / len(now.losses)
        now.history.append(Epoch(loss, found, self._arithmetic.skipped, self._arithmetic.scale))
        now.losses.clear()
        if not self._settings.patience:
            return
        if found < now.best:
            now.best, now.best_epoch = found, len(now.history)
            self._best = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        now.stopped_early = len(now.history) - now.best_epoch >= self._settings.patience

    def _held_out_loss(self) -> float:
        """Mean loss of the rows held out, in eval mode; NaN without any."""
        if not len(self._held_out):
            return math.nan
        self._model.eval()
        with torch.no_grad(), self._arithmetic.forward():
            total = 0.0
            for start in range(0, len(self._held_out), self._batch):
                rows = self._held_out[start : start + self._batch]
                inputs = tuple(t[rows].to(self._settings.device) for t in self._data.inputs)
                loss = self._data.loss(self._model(*inputs), self._data.targets[rows].to(self._settings.device))
                total += float(loss) * len(rows)
        self._model.train()
        return total / len(self._held_out)

    def _identity(self) -> str:
        """Of what a checkpoint is: it can only be gone on with by the same settings on the same data."""
        settings = asdict(self._settings) | {"checkpoint_steps": 0}
        sizes = [list(t.shape) for t in (*self._data.inputs, self._data.targets)]
        names = [[name, list(p.shape)] for name, p in self._model.named_parameters()]
        about = json.dumps([settings, self._epochs, self._batch, sizes, names])
        return hashlib.sha256(about.encode()).hexdigest()[:16]

    def _checkpoint(self) -> Checkpoint:
        optimizer = checkpoint.optimizer_state(self._optimizer)
        tensors = {f"model.{name}": tensor for name, tensor in self._model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.tensors.items()}
        tensors |= {"order": self._order, "generator": torch.get_rng_state()}
        if self._settings.device == "cuda":
            tensors["cuda_generator"] = torch.cuda.get_rng_state()
        meta = {
            "identity": self._identity(),
            "progress": asdict(self.now),
            "optimizer": optimizer.meta,
            "schedule": {key: value for key, value in self._schedule.state_dict().items() if _is_json(value)},
            "arithmetic": self._arithmetic.state(),
        }
        return Checkpoint(tensors, meta)

    def _restore(self, found: Checkpoint) -> None:
        if found.meta["identity"] != self._identity():
            raise PyprodError(f"{self._path} is of other settings, data or model: delete it, or name another folder")
        self._model.load_state_dict(checkpoint.part(found, "model"))
        self._best = checkpoint.part(found, "best")
        state = Checkpoint(checkpoint.part(found, "optimizer"), found.meta["optimizer"])
        checkpoint.restore_optimizer(self._optimizer, state)
        self._schedule.load_state_dict(found.meta["schedule"])
        self._arithmetic.restore(found.meta["arithmetic"])
        self._order = found.tensors["order"]
        history = [Epoch(**epoch) for epoch in found.meta["progress"].pop("history")]
        self.now = _Progress(**found.meta["progress"], history=history)
        torch.set_rng_state(found.tensors["generator"])
        if self._settings.device == "cuda":
            torch.cuda.set_rng_state(found.tensors["cuda_generator"])


def _split(rows: int, settings: Settings) -> tuple[Tensor, Tensor]:
    """Numbers of the rows that are trained on, and of those held out."""
    if not settings.holdout:
        return torch.arange(rows), torch.empty(0, dtype=torch.int64)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(settings.seed))
    cut = max(1, round(settings.holdout * rows))
    return order[cut:].sort().values, order[:cut].sort().values


def _schedule(
    optimizer: torch.optim.Optimizer, kind: str, learning_rate: float, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if kind == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)


def _is_json(value: Any) -> bool:
    """Whether a scheduler's attribute is a value; its functions are made anew."""
    return isinstance(value, bool | int | float | str | list | None)


@contextlib.contextmanager
def _deterministic(settings: Settings) -> Iterator[None]:
    """Within, the same operations give the same bits; afterwards torch is as it was."""
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(device_type="cuda", enabled=True):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before, warn_only=warns)


@contextlib.contextmanager
def _bar(run: _Run, title: str) -> Iterator[Callable[[], None]]:
    """A progress bar, where somebody can see it."""
    with Progress(transient=True, disable=not (title and sys.stderr.isatty())) as progress:
        task = progress.add_task(title, total=run.total, completed=run.now.step)
        yield lambda: progress.update(task, completed=run.now.step)
