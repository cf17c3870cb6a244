"""The arithmetic of a training run: float32, bfloat16 autocast, or float16 autocast with a scaled loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

#: GradScaler's own. Small gradients of float16 would become 0: the loss is multiplied, by half as much after overflows.
FIRST_SCALE = 2.0**16


class Arithmetic:
    """Runs forward passes in a precision, and steps only where all gradients are finite.

    Attributes:
        skipped: steps left out because a gradient was not finite.

    Args:
        precision: weights stay float32 in each.
        device: "cpu" or "cuda".
    """

    def __init__(self, precision: Precision, device: str) -> None:
        self._precision, self._device = precision, device
        self._scaler = torch.amp.GradScaler(device, FIRST_SCALE, enabled=precision == "float16")
        self.skipped = 0

    @property
    def scale(self) -> float:
        """What the loss is multiplied by; 1 in all but float16."""
        return float(self._scaler.get_scale())

    def forward(self) -> contextlib.AbstractContextManager[Any]:
        """Within, the forward pass and the loss are computed."""
        if self._precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self._device, getattr(torch, self._precision))

    def backward(self, loss: Tensor) -> None:
        """Gradients of the (scaled) loss."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], clip_norm: float | None) -> bool:
        """Clip, then step, unless a gradient is not finite; whether it stepped."""
        self._scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if clip_norm is None else clip_norm)
        stepped = bool(norm.isfinite())
        if stepped or self._scaler.is_enabled():  # the scaler leaves a step out by itself, and halves its scale
            self._scaler.step(optimizer)
        self._scaler.update()
        self.skipped += not stepped
        return stepped

    def state(self) -> dict[str, Any]:
        """JSON values; `restore` is the inverse."""
        return {"skipped": self.skipped, "scaler": self._scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.skipped = state["skipped"]
        self._scaler.load_state_dict(state["scaler"])
