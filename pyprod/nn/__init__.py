"""Modules that compute in INT8 with our kernels, and the swap that puts them into a model."""

from pyprod.nn.calibrate import Range, asymmetric, from_ranges, minmax, static_quantspec, watch
from pyprod.nn.convert import convert, dynamic_quantspec, layers, linears
from pyprod.nn.linear import Int8Linear, channel_scale, largest, linear_scale, quantize_weight

__all__ = [
    "Int8Linear",
    "Range",
    "asymmetric",
    "channel_scale",
    "convert",
    "dynamic_quantspec",
    "from_ranges",
    "largest",
    "layers",
    "linear_scale",
    "linears",
    "minmax",
    "quantize_weight",
    "static_quantspec",
    "watch",
]
