"""PyTorch's own quantized engines, dynamic: activations per tensor, found in the call; weights per channel."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear
from torch.ao.quantization import QConfig, default_dynamic_quant_observer, default_per_channel_weight_observer

from pyprod.kernel_suite.peers import Prepared, TorchPrepared, Variant
from pyprod.kernel_suite.problems.linear import Linear
from pyprod.types import Unavailable

VARIANTS = {
    engine: Variant(("linear", "linear_cold"), "int8", f"torch.ao dynamic linear, engine {engine}")
    for engine in ("x86", "onednn", "fbgemm")
}


def available(variant: str) -> Unavailable | None:
    """Why `variant` can't run here, or None."""
    if variant not in torch.backends.quantized.supported_engines:
        return Unavailable(f"this PyTorch has no quantized engine {variant!r}")
    return None


def prepare(problem: Linear, variant: str, threads: int, workdir: Path) -> Prepared:
    """The layer converted; with the full 8 bits of an activation, as CPUs with VNNI allow."""
    torch.backends.quantized.engine = variant
    layer = nn.Linear(problem.k, problem.n, device="meta")
    layer.weight = nn.Parameter(problem.weight, requires_grad=False)
    layer.bias = nn.Parameter(problem.bias, requires_grad=False)
    observer = default_dynamic_quant_observer.with_args(reduce_range=False)
    config = QConfig(activation=observer, weight=default_per_channel_weight_observer)  # type: ignore[no-untyped-call]
    layer.qconfig = config  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated, and still what users of PyTorch alone have
        return TorchPrepared(DynamicLinear.from_float(layer))  # type: ignore[no-untyped-call]
