"""Modules that compute in INT8 with our kernels, and the swap that puts them into a model."""

from pyprod.nn.calibrate import Range, asymmetric, from_ranges, minmax, static_quantspec, watch
from pyprod.nn.convert import convert, dynamic_quantspec, layers, linears
from pyprod.nn.int4 import Int4Linear, int4_weight
from pyprod.nn.linear import (
    Int8Linear,
    channel_scale,
    int8_weight,
    largest,
    multiplier,
    quantize_weight,
    smoothing,
)

__all__ = [
    "Int4Linear",
    "Int8Linear",
    "Range",
    "asymmetric",
    "channel_scale",
    "convert",
    "dynamic_quantspec",
    "from_ranges",
    "int4_weight",
    "int8_weight",
    "largest",
    "layers",
    "linears",
    "minmax",
    "multiplier",
    "quantize_weight",
    "smoothing",
    "static_quantspec",
    "watch",
]
