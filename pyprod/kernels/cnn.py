"""int8_cnn: a whole convolutional network in one call, from float images to float features."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake, refuse_gradient
from pyprod.kernels.conv import Pair, _pair, int8_conv2d_reference, pack_conv_weight

__all__ = ["CnnStep", "CnnValue", "int8_cnn", "int8_cnn_cost", "int8_cnn_reference", "pack_cnn"]

_MAGIC = 0x316E6E6364727079  # csrc/int8_conv2d/plan.h
_KINDS = ("conv", "max_pool", "mean")
_ALIGNMENT = 64


@dataclass(frozen=True)
class CnnValue:
    """A tensor between steps.

    Attributes:
        shape: height, width, channels.
        scale: of int8 values; None: float32.
        zero_point: the int8 that stands for 0.
    """

    shape: tuple[int, int, int]
    scale: float | None = None
    zero_point: int = 0

    @property
    def nbytes(self) -> int:
        height, width, channels = self.shape
        return height * width * channels * (4 if self.scale is None else 1)


@dataclass(frozen=True)
class CnnStep:
    """What makes a value from others; values are named by their index.

    Attributes:
        kind: "conv" (see `int8_conv2d`), "max_pool" of int8, or "mean" over height and width.
        residual: value that a convolution adds, or -1.
        kernel, stride, padding, dilation: of the window, as in torch.nn; unused by "mean".
        relu: whether a convolution ends with ReLU, after the residual.
        w_q: int8 ``[Cout, Cin, kh, kw]`` of a convolution, with w_scale float32 ``[Cout]`` and bias float32 ``[Cout]``.
    """

    kind: Literal["conv", "max_pool", "mean"]
    input: int
    output: int
    residual: int = -1
    kernel: Pair = 1
    stride: Pair = 1
    padding: Pair = 0
    dilation: Pair = 1
    relu: bool = False
    w_q: Tensor | None = None
    w_scale: Tensor | None = None
    bias: Tensor | None = None

    @property
    def window(self) -> list[int]:
        return [side for pair in (self.kernel, self.stride, self.padding, self.dilation) for side in _pair(pair)]


def int8_cnn(x: Tensor, plan: Tensor, features: int) -> Tensor:
    """Run a plan of `pack_cnn`: int8 from the quantized input to the last step, nothing allocated in between.

    Each step computes what `int8_conv2d` says. An image that holds a NaN or an infinity gives a row of NaN. Results
    depend neither on the batch nor on threads nor on the instruction set. Inference only.

    Args:
        x: float32 ``[batch, C, H, W]`` of the sizes that the plan was made for, CPU; where those are one pixel also
            ``[batch, C]`` or ``[a, b, C]``, which is a * b of them.
        plan: int8 vector.
        features: size of the last value.

    Returns:
        float32 ``[batch, features]``.

    Raises:
        RuntimeError: x does not fit the plan, the plan is damaged, or x needs a gradient; the message says which.
    """
    refuse_gradient("int8_cnn", x)
    out: Tensor = torch.ops.pyprod.int8_cnn.default(x, plan, features)
    return out


def int8_cnn_reference(x: Tensor, values: Sequence[CnnValue], steps: Sequence[CnnStep]) -> Tensor:
    """The same, slowly, from what `pack_cnn` takes: equal bits, up to the order of sums in a mean of floats."""
    if x.dim() != 4:
        x = x.reshape(-1, x.shape[-1], 1, 1)
    made = {0: _quantize(x, values[0])}
    for step in steps:
        source, target, tensor = values[step.input], values[step.output], made[step.input]
        if step.kind == "conv":
            assert source.scale is not None
            assert step.w_q is not None
            assert step.w_scale is not None
            rest: dict[str, Any] = {"out_scale": target.scale, "out_zero_point": target.zero_point}
            if step.residual >= 0:
                added = values[step.residual]
                rest |= {"residual_scale": added.scale or 1.0, "residual_zero_point": added.zero_point}
            made[step.output] = int8_conv2d_reference(
                tensor, source.scale, source.zero_point, step.w_q, step.w_scale, step.bias, step.stride, step.padding,
                step.dilation, "relu" if step.relu else None, made.get(step.residual), **rest,
            )  # fmt: skip
        elif step.kind == "max_pool":
            pooled = functional.max_pool2d(tensor.float(), step.kernel, step.stride, step.padding, step.dilation)
            made[step.output] = pooled.to(torch.int8)
        else:
            pixels = source.shape[0] * source.shape[1]
            if source.scale is None:
                mean = tensor.sum((2, 3), keepdim=True) / pixels
            else:
                sums = (tensor.int() - source.zero_point).sum((2, 3), keepdim=True)
                mean = sums.float() * torch.tensor(source.scale) / pixels
            made[step.output] = _quantize(mean, target)
    bad = ~x.isfinite().flatten(1).all(1)
    out = made[steps[-1].output].permute(0, 2, 3, 1).flatten(1)
    return out.masked_fill(bad[:, None], torch.nan)


def int8_cnn_cost(batch: int, values: Sequence[CnnValue], steps: Sequence[CnnStep]) -> Cost:
    """Multiplications and additions of the convolutions; bytes of images, weights and result."""
    first, last = values[0].shape, values[steps[-1].output].shape
    weights = sum(step.w_q.numel() for step in steps if step.w_q is not None)
    moved = 4 * batch * (first[0] * first[1] * first[2] + last[0] * last[1] * last[2])
    return Cost(ops=2 * batch * _operations(values, steps), bytes=moved + weights)


def pack_cnn(values: Sequence[CnnValue], steps: Sequence[CnnStep]) -> Tensor:
    """A network as one int8 vector for `int8_cnn`; csrc/int8_conv2d/plan.h has the layout.

    Args:
        values: the first is the input (int8), the last the output (float32).
        steps: in an order in which each finds its inputs made.
    """
    offsets, scratch = _places(values, steps)
    constants, positions, weights = bytearray(), [], 0
    tables = 8 * (8 + 8 * len(values) + 16 * len(steps))
    start = -(-tables // _ALIGNMENT) * _ALIGNMENT
    for step in steps:
        row = [-1, -1, -1]
        if step.kind == "conv":
            assert step.w_q is not None
            assert step.w_scale is not None
            packed = pack_conv_weight(step.w_q).data
            weights += packed.numel()
            for i, tensor in enumerate((packed, step.w_scale.float(), step.bias)):
                if tensor is not None:
                    row[i] = start + len(constants)
                    constants += tensor.contiguous().numpy().tobytes()
                    constants += bytes(-len(constants) % _ALIGNMENT)
        positions.append(row)
    words = [_MAGIC, len(values), len(steps), scratch, weights, _operations(values, steps), 0, 0]
    for value, offset in zip(values, offsets, strict=True):
        scale = struct.unpack("=i", struct.pack("=f", value.scale or 1.0))[0]
        words += [*value.shape, int(value.scale is None), scale, value.zero_point, offset, 0]
    for step, row in zip(steps, positions, strict=True):
        words += [_KINDS.index(step.kind), step.input, step.residual, step.output, *step.window, int(step.relu), *row]
    head = struct.pack(f"={len(words)}q", *words)
    data = bytearray(head + bytes(start - len(head)) + bytes(constants))
    return torch.frombuffer(data, dtype=torch.int8).clone()


def _quantize(x: Tensor, value: CnnValue) -> Tensor:
    if value.scale is None:
        return x
    q = torch.round(x * (1 / torch.tensor(value.scale))) + value.zero_point
    return q.nan_to_num(-128).clamp(-128, 127).to(torch.int8)


def _operations(values: Sequence[CnnValue], steps: Sequence[CnnStep]) -> int:
    sizes = ((values[s.output].shape, s.w_q.numel()) for s in steps if s.w_q is not None)
    return sum(height * width * weights for (height, width, _), weights in sizes)


def _places(values: Sequence[CnnValue], steps: Sequence[CnnStep]) -> tuple[list[int], int]:
    """Where each value lies in an image's scratch: first fit among those alive at the same time; and the total."""
    born, dies = {0: -1}, {0: -1}
    for time, step in enumerate(steps):
        born.setdefault(step.output, time)
        for value in (step.input, step.residual, step.output):
            dies[value] = time
    offsets, total = [0] * len(values), 0
    placed: list[int] = []
    for value in sorted(born, key=lambda v: born[v]):
        size = -(-values[value].nbytes // _ALIGNMENT) * _ALIGNMENT
        alive = sorted((offsets[v], v) for v in placed if dies[v] >= born[value])
        offset = 0
        for begin, other in alive:
            if offset + size <= begin:
                break
            offset = max(offset, begin + -(-values[other].nbytes // _ALIGNMENT) * _ALIGNMENT)
        offsets[value] = offset
        total = max(total, offset + size)
        placed.append(value)
    return offsets, total


@fake("int8_cnn")
def _fake(x: Tensor, plan: Tensor, features: int) -> Tensor:
    if x.dim() not in (2, 3, 4):
        raise RuntimeError(f"int8_cnn: x must be [batch, C, H, W] or rows of channels, got {list(x.shape)}")
    return x.new_empty((x.shape[0] * x.shape[1] if x.dim() == 3 else x.shape[0], features))
