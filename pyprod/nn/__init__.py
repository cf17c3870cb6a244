"""Modules that compute in INT8 with our kernels, and the swap that puts them into a model."""

from pyprod.nn.calibrate import asymmetric, static_quantspec
from pyprod.nn.convert import convert, dynamic_quantspec, layers, linears
from pyprod.nn.linear import Int8Linear, channel_scale, linear_scale, quantize_weight

__all__ = [
    "Int8Linear",
    "asymmetric",
    "channel_scale",
    "convert",
    "dynamic_quantspec",
    "layers",
    "linear_scale",
    "linears",
    "quantize_weight",
    "static_quantspec",
]
