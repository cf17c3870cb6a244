"""Quick look at single ops: ``pytest bench --benchmark-only``. Each is checked with its reference before it is timed.

One thread; weights are hot in cache after the first round; inputs are normal (not zeros: data changes clocks).
What the peers do differently: torch's dynamic engine quantizes activations per tensor, ours per row; ``_int_mm`` is the
product alone. GOP/s (2 M N K) and GB/s of the least traffic are in the JSON output's extra_info.
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
def shape(request):
    return request.param


@pytest.fixture
def layer(shape):
    m, n, k = shape
    return torch.randn(m, k), nn.Linear(k, n)


@pytest.fixture
def time(benchmark, shape):
    """Time a call whose least work is `cost`; shapes are the groups of the table."""

    def run(call, cost):
        benchmark.group = "x".join(map(str, shape))
        benchmark(call)
        if benchmark.stats:
            rate = 1e-9 / benchmark.stats.stats.median
            benchmark.extra_info |= {"GOP/s": cost.ops * rate, "GB/s": cost.bytes * rate, "isa": kernels.isa()}

    return run


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_int8_linear(time, shape, layer, activation):
    x, linear = layer
    ours = Int8Linear.from_float(linear)
    packed = kernels.PackedWeight(ours.weight, ours.out_features, ours.in_features)
    arguments = (ours.weight_scale, ours.bias, activation)
    reference = int8_linear_reference(x, packed.unpack(), *arguments)
    # The bound of an activation (tests/kernels/test_linear.py) for |y| up to 64; without one the bits are equal.
    assert (int8_linear(x, packed, *arguments) - reference).abs().max() <= (2**-15 if activation else 0)
    time(lambda: int8_linear(x, packed, *arguments), int8_linear_cost(*shape))


def test_float32_linear(time, shape, layer):
    x, linear = layer
    assert torch.allclose(linear(x), (x.double() @ linear.weight.double().T + linear.bias).float(), atol=1e-4)
    time(lambda: linear(x), int8_linear_cost(*shape))


def test_torch_dynamic_linear(time, shape, layer):
    x, linear = layer
    with warnings.catch_warnings():
        # torch.ao and quantized tensors are deprecated in favor of torchao, which has no eager CPU engine as fast.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        peer = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear}, torch.qint8)
    want = linear(x)
    assert (peer(x) - want).norm() < 0.05 * want.norm()
    time(lambda: peer(x), int8_linear_cost(*shape))


@pytest.mark.parametrize("engine", ["pyprod", "torch._int_mm"])
def test_gemm(time, shape, engine):
    m, n, k = shape
    a, w = (torch.randint(-127, 128, size, dtype=torch.int8) for size in ((m, k), (n, k)))
    packed, transposed = pack_weight(w), w.t()
    call = (lambda: int8_gemm(a, packed)) if engine == "pyprod" else (lambda: torch._int_mm(a, transposed))
    assert torch.equal(call(), int8_gemm_reference(a, w))
    time(call, int8_gemm_cost(*shape))


def test_quantize(time, layer):
    x, _ = layer
    for got, want in zip(quantize_per_token(x), quantize_per_token_reference(x), strict=True):
        assert torch.equal(got, want)
    time(lambda: quantize_per_token(x), quantize_per_token_cost(*x.shape))
