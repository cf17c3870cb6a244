"""int8_conv2d: a convolution between int8 images of static scales, with what follows it fused."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake, refuse_gradient
from pyprod.kernels.gemm import PackedWeight, pack_weight
from pyprod.kernels.linear import _ACTIVATIONS, Activation

__all__ = ["int8_conv2d", "int8_conv2d_cost", "int8_conv2d_reference", "pack_conv_weight"]

Pair = int | tuple[int, int]


def pack_conv_weight(w_q: Tensor) -> PackedWeight:
    """The int8 weight ``[Cout, Cin, kh, kw]`` packed for `int8_conv2d`: rows of kh * kw * Cin, channels innermost."""
    if w_q.dim() != 4:
        raise RuntimeError(f"pack_conv_weight: w_q must be [Cout, Cin, kh, kw], got {list(w_q.shape)}")
    return pack_weight(w_q.permute(0, 2, 3, 1).reshape(w_q.shape[0], -1))


def int8_conv2d(
    x: Tensor,
    x_scale: float,
    x_zero_point: int,
    packed: PackedWeight,
    w_scale: Tensor,
    bias: Tensor | None = None,
    kernel: Pair = 1,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
    residual_zero_point: int = 0,
    out_scale: float | None = None,
    out_zero_point: int = 0,
) -> Tensor:
    """``activation(conv2d((x - x_zero_point) * x_scale, w * w_scale) + bias + residual)``, requantized if asked.

    The sums are exact in int32; padding stands for 0 exactly. What follows is float32 in the order written. With
    `out_scale` the result is ``saturate(round(y * (1 / out_scale)) + out_zero_point)``, ties to even; a NaN becomes the
    least integer that can come out. Every instruction set gives the same bits. Inference only, CPU, no groups.

    Args:
        x: int8 ``[N, Cin, H, W]``; without a copy in channels_last order. uint8 images of zero point z are int8 ones of
            z - 128.
        x_scale: scale of x, positive.
        x_zero_point: the integer of x that stands for 0.
        packed: int8 weight from `pack_conv_weight`; ``kh * kw * Cin <= 65793``.
        w_scale: float32 ``[Cout]``, contiguous.
        bias: float32 ``[Cout]``, contiguous.
        kernel, stride, padding, dilation: as in torch.nn.Conv2d, each one number or ``(h, w)``.
        activation: "relu", and without residual "gelu", "gelu_tanh" or "silu".
        residual: shaped like the result: float32, or int8 of `residual_scale` and `residual_zero_point`.
        out_scale: scale of the int8 result, positive; None: the result is float32.
        out_zero_point: zero point of the int8 result.

    Returns:
        int8 or float32 ``[N, Cout, H', W']`` in channels_last order.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape, device or value, or needs a gradient; the message names it.
    """
    refuse_gradient("int8_conv2d", bias, residual)
    if x.dim() != 4:
        raise RuntimeError(f"int8_conv2d: x must be [N, C, H, W], got {list(x.shape)}")
    window = [side for pair in (kernel, stride, padding, dilation) for side in _pair(pair)]
    out: Tensor = torch.ops.pyprod.int8_conv2d.default(
        x.permute(0, 2, 3, 1), x_scale, x_zero_point, packed.data, packed.n, w_scale, bias, window, activation,
        None if residual is None else residual.permute(0, 2, 3, 1), residual_scale, residual_zero_point,
        out_scale, out_zero_point,
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def int8_conv2d_reference(
    x: Tensor,
    x_scale: float,
    x_zero_point: int,
    w_q: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
    residual_zero_point: int = 0,
    out_scale: float | None = None,
    out_zero_point: int = 0,
) -> Tensor:
    """The same, slowly, from the weight ``[Cout, Cin, kh, kw]``: equal bits without activation or with relu."""
    # float64 holds every sum of K <= 65793 products exactly: they are below 2^31.
    acc = functional.conv2d(
        (x.int() - x_zero_point).double(), w_q.double(), None, _pair(stride), _pair(padding), _pair(dilation)
    )
    y = acc.float() * (torch.tensor(x_scale) * w_scale)[:, None, None]
    if bias is not None:
        y = y + bias[:, None, None]
    if residual is not None and residual.dtype == torch.int8:
        y = y + (residual.int() - residual_zero_point).float() * torch.tensor(residual_scale)
    elif residual is not None:
        y = y + residual
    y = _ACTIVATIONS[activation](y.double()).float()
    if out_scale is None:
        return y
    least = out_zero_point if activation == "relu" else -128
    q = torch.round(y * (1 / torch.tensor(out_scale))) + out_zero_point
    return q.nan_to_num(least).clamp(-128, 127).to(torch.int8)


def int8_conv2d_cost(
    n: int, c_in: int, c_out: int, height: int, width: int, kernel: int, stride: int = 1, out_itemsize: int = 1
) -> Cost:
    """Cost of a ``[n, c_in, height, width]`` convolution with "same" padding, scales and bias, without residual."""
    pixels = n * -(-height // stride) * -(-width // stride)
    weights = c_in * c_out * kernel * kernel
    moved = n * height * width * c_in + weights + 8 * c_out + pixels * c_out * out_itemsize
    return Cost(ops=2 * pixels * weights, bytes=moved)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def positions(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Places of a window along one axis, as torch.nn.Conv2d counts them."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@fake("int8_conv2d")
def _fake(
    x: Tensor,
    x_scale: float,
    x_zero_point: int,
    packed: Tensor,
    n: int,
    w_scale: Tensor,
    bias: Tensor | None,
    window: Sequence[int],
    activation: str | None = None,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
    residual_zero_point: int = 0,
    out_scale: float | None = None,
    out_zero_point: int = 0,
) -> Tensor:
    if x.dim() != 4:
        raise RuntimeError(f"int8_conv2d: x must be [N, H, W, C], got {list(x.shape)}")
    height, width = (positions(x.shape[1 + i], *window[i::2]) for i in range(2))
    return x.new_empty((x.shape[0], height, width, n), dtype=torch.float32 if out_scale is None else torch.int8)
