"""What torch asks of an op: schema, fakes, compile, export."""

import pytest
import torch

from pyprod.kernels.gemm import PackedWeight, int8_gemm, pack_weight
from pyprod.kernels.linear import int8_linear
from pyprod.kernels.linear_prequantized import int8_linear_prequantized
from pyprod.kernels.linear_static import int8_linear_static
from pyprod.kernels.quantize import quantize_per_token

OPS = torch.ops.pyprod


@pytest.fixture
def call():
    packed = pack_weight(torch.randint(-128, 128, (33, 30), dtype=torch.int8))
    return torch.randn(6, 30), packed, torch.rand(33), torch.randn(33)


def test_opcheck(call):
    x, packed, scale, bias = call
    q, _ = quantize_per_token(x)
    torch.library.opcheck(OPS.quantize_per_token.default, (x,))
    torch.library.opcheck(OPS.quantize_per_token.default, (x.half().reshape(2, 3, 30),))
    torch.library.opcheck(OPS.int8_gemm.default, (q, packed.data, 33, 30))
    torch.library.opcheck(OPS.int8_linear.default, (x, packed.data, 33, 30, scale))
    arguments = (
        x.T.contiguous().T,
        packed.data,
        33,
        30,
        scale,
        bias,
        "gelu",
        torch.randn(6, 33).bfloat16(),
        torch.bfloat16,
        torch.rand(30),
        True,
    )
    torch.library.opcheck(OPS.int8_linear.default, arguments)
    torch.library.opcheck(OPS.int8_linear_prequantized.default, (q, torch.rand(6), packed.data, 33, 30, scale, bias))
    static = (q, 0.1, 3, packed.data, 33, 30, scale, bias, "relu", None)
    torch.library.opcheck(OPS.int8_linear_static.default, static)
    torch.library.opcheck(OPS.int8_linear_static.default, (*static, torch.uint8, 0.5, 128))


def test_fakes_agree_and_refuse(call):
    x, packed, scale, _ = call
    data = packed.data.to("meta")
    assert OPS.int8_gemm.default(torch.empty(6, 30, dtype=torch.int8, device="meta"), data, 33, 30).shape == (6, 33)
    out = OPS.int8_linear.default(x.reshape(2, 3, 30).to("meta"), data, 33, 30, scale.to("meta"), out_dtype=torch.half)
    assert (out.shape, out.dtype) == ((2, 3, 33), torch.float16)
    with pytest.raises(RuntimeError, match="x must be"):
        OPS.int8_linear.default(torch.empty(6, 29, device="meta"), data, 33, 30, scale.to("meta"))
    with pytest.raises(RuntimeError, match="a must be"):
        OPS.int8_gemm.default(torch.empty(6, 29, dtype=torch.int8, device="meta"), data, 33, 30)


def test_compile_fullgraph(call):
    _, packed, scale, bias = call

    def model(x, data, scale, bias):
        packed = PackedWeight(data, 33, 30)
        q, row_scale = quantize_per_token(x)
        return (
            int8_linear(x, packed, scale, bias, "gelu") * 2,
            int8_gemm(q, packed),
            int8_linear_prequantized(q, row_scale, packed, scale, bias),
            int8_linear_static(q, 0.1, 3, packed, scale, bias, "silu", out_scale=0.2, out_zero_point=-5),
        )

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (6, 9):
        arguments = (torch.randn(rows, 30), packed.data, scale, bias)
        for got, want in zip(compiled(*arguments), model(*arguments), strict=True):
            assert torch.equal(got, want)
