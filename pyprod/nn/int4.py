"""Int4Linear: a linear layer whose weight has 4 bits in groups, for decoding."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from pyprod.kernels.int4_linear import (
    GROUP_SIZES,
    Int4Weight,
    PackedInt4Weight,
    int4_linear,
    pack_int4_weight,
    quantize_int4_weight,
)
from pyprod.nn.linear import smoothed_weight
from pyprod.types import PyprodError, TensorQuant


class Int4Linear(nn.Module):
    """A linear layer with a 4-bit weight (a scale and a zero point for each group) and per-token dynamic activations.

    Input ``[..., in_features]`` in float32, bfloat16 or float16 on the CPU; output ``[..., out_features]`` in the same
    dtype. Inference only.

    Args:
        weight: as `pyprod.kernels.int4_linear.quantize_int4_weight` makes it.
        bias: float32 ``[out_features]``, or None.
        multiplier: float32 ``[in_features]`` or None: of the input's channels, before they are quantized.
    """

    weight: Tensor
    bias: Tensor | None
    multiplier: Tensor | None

    def __init__(self, weight: Int4Weight, bias: Tensor | None = None, multiplier: Tensor | None = None) -> None:
        super().__init__()
        packed = pack_int4_weight(weight)
        self.out_features, self.in_features = packed.n, packed.k
        self.group_size, self.zeros = packed.group_size, packed.zeros
        self.register_buffer("weight", packed.data)
        self.register_buffer("bias", None if bias is None else bias.detach().float().contiguous())
        self.register_buffer("multiplier", multiplier)

    def forward(self, x: Tensor) -> Tensor:
        if self.multiplier is None:
            return int4_linear(x, self._packed(), self.bias)
        return int4_linear(x * self.multiplier, self._packed(), self.bias).to(x.dtype)

    def dequantized_weight(self) -> Tensor:
        """The float32 weight ``[out_features, in_features]`` that integers and multiplier stand for."""
        weight = self._packed().unpack().dequantize()
        return weight if self.multiplier is None else weight * self.multiplier

    def extra_repr(self) -> str:
        shape = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{shape}, group_size={self.group_size}"

    def _packed(self) -> PackedInt4Weight:
        return PackedInt4Weight(self.weight, self.out_features, self.in_features, self.group_size, self.zeros)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int4Linear:
        floats = {name: getattr(self, name) for name in ("bias", "multiplier")}  # a cast casts nothing
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in floats.items():
            setattr(self, name, None if value is None else value.to(self.weight.device))
        return self


def int4_weight(name: str, weight: Tensor, quant: TensorQuant, activation: TensorQuant | None) -> Int4Weight:
    """The weight ``[N, K]`` of a layer whose QuantSpec says "per_group", smoothed as its activation says.

    Raises:
        PyprodError: Int4Linear does not compute that scheme; the message begins with `name`.
    """
    if quant.granularity != "per_group" or quant.bits != 4 or quant.group_size not in GROUP_SIZES or quant.scale:
        sizes = ", ".join(map(str, GROUP_SIZES))
        raise PyprodError(
            f"{name}: Int4Linear needs a weight of 4 bits per group of {sizes}, its scales found from the weight; got "
            f"{quant.bits} bits {quant.granularity}, groups of {quant.group_size}"
        )
    smoothed = smoothed_weight(name, "Int4Linear", weight, activation)
    if activation is not None and activation.asymmetric:
        raise PyprodError(f"{name}: Int4Linear computes no activations with zero points")
    return quantize_int4_weight(smoothed, quant.group_size, symmetric=False)
