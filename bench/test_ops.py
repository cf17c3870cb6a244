"""Quick look at single ops: ``pytest bench --benchmark-only``. Each is checked against its reference before it is timed.

One thread, weights hot in cache after the first round, inputs normal (not zeros: data changes the clock on GPUs).
What the peers do differently: torch's dynamic engine quantizes activations per tensor, ours per row; ``_int_mm`` is the
product alone. GOP/s (2 M N K) and the share of bytes are in the table's extra_info.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from pyprod import kernels
from pyprod.kernels.gemm import int8_gemm, int8_gemm_cost, int8_gemm_reference, pack_weight
from pyprod.kernels.linear import int8_linear, int8_linear_cost, int8_linear_reference
from pyprod.kernels.quantize import quantize_per_token, quantize_per_token_cost, quantize_per_token_reference
from pyprod.nn import Int8Linear

# The MLP of a 384-wide encoder, both ways, and one of a 768-wide one; a token, a few, a sentence, a batch.
SHAPES = [(m, n, k) for n, k in ((1536, 384), (384, 1536), (3072, 768)) for m in (1, 8, 128, 512)]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def layer(request):
    m, n, k = request.param
    return torch.randn(m, k), nn.Linear(k, n)


def time(benchmark, cost, call):
    benchmark.group = "x".join(map(str, cost[:3]))
    benchmark(call)
    work = cost[3]
    seconds = benchmark.stats.stats.median if benchmark.stats else float("nan")
    benchmark.extra_info |= {
        "GOP/s": work.ops / seconds / 1e9,
        "GB/s": work.bytes / seconds / 1e9,
        "isa": kernels.isa(),
    }


def case(layer, model):
    (m, k), n = layer[0].shape, layer[1].out_features
    return m, n, k, model(m, n, k)


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_int8_linear(benchmark, layer, activation):
    x, linear = layer
    ours = Int8Linear.from_float(linear)
    packed = kernels.PackedWeight(ours.weight, ours.out_features, ours.in_features)
    arguments = (ours.weight_scale, ours.bias, activation)
    reference = int8_linear_reference(x, packed.unpack(), *arguments)
    assert (int8_linear(x, packed, *arguments) - reference).abs().max() <= 2**-21 * (reference.abs().max() + 1)
    time(benchmark, case(layer, int8_linear_cost), lambda: int8_linear(x, packed, *arguments))


def test_float32_linear(benchmark, layer):
    x, linear = layer
    assert torch.allclose(linear(x), (x.double() @ linear.weight.double().T + linear.bias).float(), atol=1e-4)
    time(benchmark, case(layer, int8_linear_cost), lambda: linear(x))


def test_torch_dynamic_linear(benchmark, layer):
    x, linear = layer
    with warnings.catch_warnings():
        # torch.ao is deprecated in favor of torchao, which has no eager CPU engine that is as fast.
        warnings.simplefilter("ignore", DeprecationWarning)
        peer = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear}, torch.qint8)
    want = linear(x)
    assert (peer(x) - want).norm() < 0.05 * want.norm()
    time(benchmark, case(layer, int8_linear_cost), lambda: peer(x))


@pytest.mark.parametrize("engine", ["pyprod", "torch._int_mm"])
def test_gemm(benchmark, layer, engine):
    m, n, k, _ = cost = case(layer, int8_gemm_cost)
    a, w = (torch.randint(-127, 128, shape, dtype=torch.int8) for shape in ((m, k), (n, k)))
    packed, transposed = pack_weight(w), w.t()
    call = (lambda: int8_gemm(a, packed)) if engine == "pyprod" else (lambda: torch._int_mm(a, transposed))
    assert torch.equal(call(), int8_gemm_reference(a, w))
    time(benchmark, cost, call)


def test_quantize(benchmark, layer):
    x = layer[0]
    for got, want in zip(quantize_per_token(x), quantize_per_token_reference(x), strict=True):
        assert torch.equal(got, want)
    m, n, k, cost = case(layer, lambda m, n, k: quantize_per_token_cost(m, k))
    time(benchmark, (m, n, k, cost), lambda: quantize_per_token(x))
