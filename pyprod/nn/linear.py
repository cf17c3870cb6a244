"""Int8Linear: a linear layer on our kernels, and the quantization of its weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyprod.kernels.gemm import PackedWeight, pack_weight
from pyprod.kernels.linear import Activation, int8_linear
from pyprod.types import PyprodError, TensorQuant

_TINY = torch.finfo(torch.float32).tiny  # keeps the scale of an all-zero channel invertible


class Int8Linear(nn.Module):
    """A linear layer with an int8 weight (symmetric, a scale per output channel) and per-token dynamic activations.

    Input ``[..., in_features]`` in float32, bfloat16 or float16; output ``[..., out_features]`` in the same dtype.
    Inference only. Casting the module (``.half()``) casts nothing: scales and bias stay float32.

    Args:
        weight_q: int8 ``[out_features, in_features]``.
        weight_scale: float32 ``[out_features]``.
        bias: float32 ``[out_features]``, or None.
        activation: fused into the layer; see `pyprod.kernels.linear.int8_linear`.
        multiplier: float32 ``[in_features]`` or None: of the input's channels, before they are quantized.
        asymmetric: each token has a zero point too.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    multiplier: Tensor | None

    def __init__(
        self,
        weight_q: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None = None,
        activation: Activation | None = None,
        multiplier: Tensor | None = None,
        asymmetric: bool = False,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_q.shape
        self.activation = activation
        self.asymmetric = asymmetric
        self.register_buffer("weight", pack_weight(weight_q).data)
        self.register_buffer("weight_scale", weight_scale.detach().float().contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().float().contiguous())
        self.register_buffer("multiplier", multiplier)

    @classmethod
    def from_float(
        cls,
        linear: nn.Linear,
        weight_scale: Tensor | None = None,
        activation: Activation | None = None,
        bits: int = 8,
    ) -> Int8Linear:
        """Quantize a float layer.

        Args:
            weight_scale: ``[out_features]``; by default `channel_scale`.
            bits: of the weight's integers, at most 8; they are held in int8.
        """
        weight = linear.weight.detach().float()
        scale = channel_scale(weight, bits) if weight_scale is None else weight_scale.to(weight)
        return cls(quantize_weight(weight, scale, bits), scale, linear.bias, activation)

    def forward(self, x: Tensor) -> Tensor:
        packed = PackedWeight(self.weight, self.out_features, self.in_features)
        layer = (packed, self.weight_scale, self.bias, self.activation)
        return int8_linear(x, *layer, multiplier=self.multiplier, asymmetric=self.asymmetric)

    def dequantized_weight(self) -> Tensor:
        """The float32 weight ``[out_features, in_features]`` that integers and multiplier stand for."""
        packed = PackedWeight(self.weight, self.out_features, self.in_features)
        weight = packed.unpack() * self.weight_scale[:, None]
        return weight if self.multiplier is None else weight * self.multiplier

    def extra_repr(self) -> str:
        fused = f", activation={self.activation}" if self.activation else ""
        fused += ", asymmetric" if self.asymmetric else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}{fused}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        # Every .to(), .half(), .cuda() comes through here: follow the int8 weight's device, refuse the cast.
        floats = {name: getattr(self, name) for name in ("weight_scale", "bias", "multiplier")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in floats.items():
            setattr(self, name, None if value is None else value.to(self.weight.device))
        return self


def channel_scale(weight: Tensor, bits: int = 8) -> Tensor:
    """Symmetric scale of each output channel of a weight ``[N, K]``, by its largest magnitude: float32 ``[N]``."""
    if weight.shape[1] == 0:
        return torch.full((weight.shape[0],), _TINY, device=weight.device)
    return (weight.detach().float().abs().amax(1) / largest(bits)).clamp(min=_TINY)


def quantize_weight(weight: Tensor, scale: Tensor, bits: int = 8) -> Tensor:
    """``clamp(round(weight / scale))`` to `bits`: int8 ``[N, K]``, with a scale for each of the N channels."""
    most = largest(bits)
    return torch.round(weight.detach().float() / scale[:, None]).clamp(-most, most).to(torch.int8)


def largest(bits: int) -> int:
    """Of a weight's integers; the least is its negative, so that they are symmetric: 127 of 8 bits, 7 of 4."""
    return (1 << (bits - 1)) - 1


def int8_weight(
    name: str, float_weight: Tensor, weight: TensorQuant, activation: TensorQuant | None
) -> tuple[Tensor, Tensor]:
    """The integers ``[N, K]`` of a layer's weight, smoothed as its activation says, and a scale for each channel:
    int8 ``[N, K]`` and float32 ``[N]``.

    Raises:
        PyprodError: Int8Linear does not compute that scheme; the message begins with `name`.
    """
    if not 2 <= weight.bits <= 8 or any(weight.zero_point) or weight.granularity not in ("per_tensor", "per_channel"):
        raise PyprodError(
            f"{name}: Int8Linear needs a symmetric weight of 2 to 8 bits per tensor or channel, got {_short(weight)}"
        )
    smoothed = smoothed_weight(name, "Int8Linear", float_weight, activation)
    channels = float_weight.shape[0]
    if not weight.scale:
        scale = channel_scale(smoothed, weight.bits)
    elif len(weight.scale) in (1, channels):
        scale = torch.tensor(weight.scale, dtype=torch.float32).expand(channels)
    else:
        raise PyprodError(f"{name}: need 1 or {channels} weight scales, got {len(weight.scale)}")
    return quantize_weight(smoothed, scale, weight.bits), scale


def smoothing(activation: TensorQuant | None) -> Tensor | None:
    """What multiplies the columns of a weight that reads this: float32 ``[K]``; None where it is not smoothed."""
    if activation is None or not activation.smoothing:
        return None
    return torch.tensor(activation.smoothing, dtype=torch.float32)


def multiplier(activation: TensorQuant | None) -> Tensor | None:
    """What the activation's own channels are multiplied by: one over `smoothing`."""
    scale = smoothing(activation)
    return None if scale is None else 1 / scale


def smoothed_weight(name: str, layer: str, weight: Tensor, activation: TensorQuant | None) -> Tensor:
    """A weight ``[N, K]`` as it is quantized in a `layer` whose activations are quantized to 8 bits per token at run
    time: its columns times the activation's smoothing.

    Raises:
        PyprodError: the activations are quantized otherwise, or smoothed by another number of channels; the message
            begins with `name`.
    """
    if activation is None or activation.bits != 8 or activation.granularity != "per_token" or activation.scale:
        got = "none" if activation is None else _short(activation)
        raise PyprodError(f"{name}: {layer} needs 8-bit dynamic per_token activations, got {got}")
    weight, scale = weight.detach().float(), smoothing(activation)
    if scale is None:
        return weight
    if len(scale) != weight.shape[1]:
        raise PyprodError(f"{name}: need smoothing of {weight.shape[1]} channels, got {len(scale)}")
    return weight * scale


def _short(quant: TensorQuant) -> str:
    kind = "static" if quant.scale else "dynamic"
    return f"{quant.bits}-bit {kind} {quant.granularity}" + (" with zero points" if any(quant.zero_point) else "")
