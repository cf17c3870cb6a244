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
from pyprod.nn.linear import check_per_token
from pyprod.types import PyprodError, TensorQuant


class Int4Linear(nn.Module):
    """A linear layer with a 4-bit weight (a scale and a zero point for each group) and per-token dynamic activations.

    Input ``[..., in_features]`` in float32, bfloat16 or float16 on the CPU; output ``[..., out_features]`` in the same
    dtype. Inference only.

    Args:
        weight: as `pyprod.kernels.int4_linear.quantize_int4_weight` makes it.
        bias: float32 ``[out_features]``, or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Int4Weight, bias: Tensor | None = None) -> None:
        super().__init__()
        packed = pack_int4_weight(weight)
        self.out_features, self.in_features = packed.n, packed.k
        self.group_size, self.zeros = packed.group_size, packed.zeros
        self.register_buffer("weight", packed.data)
        self.register_buffer("bias", None if bias is None else bias.detach().float().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return int4_linear(x, self._packed(), self.bias)

    def dequantized_weight(self) -> Tensor:
        """The float32 weight ``[out_features, in_features]`` that the integers stand for."""
        return self._packed().unpack().dequantize()

    def extra_repr(self) -> str:
        shape = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{shape}, group_size={self.group_size}"

    def _packed(self) -> PackedInt4Weight:
        return PackedInt4Weight(self.weight, self.out_features, self.in_features, self.group_size, self.zeros)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int4Linear:
        bias = self.bias  # a cast casts nothing: the bias stays float32
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.bias = bias.to(self.weight.device) if bias is not None else None
        return self


def int4_weight(name: str, weight: Tensor, quant: TensorQuant, activation: TensorQuant | None) -> Int4Weight:
    """The weight ``[N, K]`` of a layer whose QuantSpec says "per_group".

    Raises:
        PyprodError: Int4Linear does not compute that scheme; the message begins with `name`.
    """
    if quant.granularity != "per_group" or quant.bits != 4 or quant.group_size not in GROUP_SIZES or quant.scale:
        sizes = ", ".join(map(str, GROUP_SIZES))
        raise PyprodError(
            f"{name}: Int4Linear needs a weight of 4 bits per group of {sizes}, its scales found from the weight; got "
            f"{quant.bits} bits {quant.granularity}, groups of {quant.group_size}"
        )
    check_per_token(name, "Int4Linear", activation)
    return quantize_int4_weight(weight.detach(), quant.group_size, symmetric=False)
