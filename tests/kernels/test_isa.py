"""Every instruction set that this CPU has, forced in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyprod import _probe, kernels

HERE = Path(__file__).parent
NEEDS = {
    "portable": set(),
    "avx2": {"avx2"},
    "avx_vnni": {"avx2", "avx_vnni"},
    "avx512_vnni": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "amx": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "amx_tile", "amx_int8"},
}
OPS = (
    "gemm",
    "quantize",
    "linear",
    "linear_prequantized",
    "linear_static",
    "norm",
    "activation_quantize",
    "int4_linear",
    "attention",
    "self_attention",
)
#: What is the same on every path: tracing, and what threads share out.
SAME = "not (tracing or opcheck or compile or threads)"
HAS = set(_probe.cpu_features())

DIGEST = """
import hashlib, torch
from pyprod import kernels
torch.manual_seed(int("{seed}"))
digest = hashlib.sha256()
for m, n, k in [(1, 70, 300), (13, 65, 130), (200, 33, 77)]:
    packed = kernels.pack_weight(torch.randint(-128, 128, (n, k), dtype=torch.int8))
    x, scale, bias = torch.randn(m, k), torch.rand(n), torch.randn(n)
    for activation in (None, "relu", "gelu", "gelu_tanh", "silu"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            out = kernels.int8_linear(x, packed, scale, bias, activation, out_dtype=dtype)
            digest.update(out.view(torch.uint8).numpy().tobytes())
    q = torch.randint(0, 256, (m, k), dtype=torch.uint8)
    out = kernels.int8_linear_static(q, 0.01, 7, packed, scale, bias, "gelu", out_scale=0.1)
    digest.update(out.numpy().tobytes())
    for fused in (kernels.silu_mul_quantize(x, x.flip(-1)), kernels.gelu_quantize(x), kernels.gelu_quantize(x, "tanh")):
        for out in fused:
            digest.update(out.numpy().tobytes())
    qkv, mask = torch.randn(2, m, 5 * 36), torch.rand(m, m) < 0.7
    out = kernels.int8_attention_packed(qkv, 3, 1, mask, causal=n > 40)
    digest.update(out.numpy().tobytes())
print(kernels.isa(), digest.hexdigest())
"""


def python(*arguments, isa):
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | {"PYPROD_ISA": isa}, capture_output=True, text=True, timeout=200
    )


@pytest.mark.parametrize("isa", [isa for isa, needs in NEEDS.items() if needs <= HAS and isa != kernels.isa()])
def test_ops_under(isa):
    files = [str(HERE / f"test_{name}.py") for name in OPS]
    done = python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", SAME, *files, isa=isa)
    assert done.returncode == 0, done.stdout[-3000:]


def test_all_give_the_same_bits():
    script = DIGEST.format(seed=torch.initial_seed())
    lines = []
    for isa, needs in NEEDS.items():
        if needs <= HAS:
            done = python("-c", script, isa=isa)
            assert done.returncode == 0, done.stderr
            name, digest = done.stdout.split()
            assert name == isa
            lines.append(digest)
    assert len(set(lines)) == 1


def test_default_is_the_best():
    if "PYPROD_ISA" not in os.environ:
        assert kernels.isa() == [isa for isa, needs in NEEDS.items() if needs <= HAS][-1]


@pytest.mark.parametrize("isa", ["sse9", *(isa for isa, needs in NEEDS.items() if not needs <= HAS)])
def test_what_this_cpu_lacks_is_refused(isa):
    done = python("-c", "import pyprod.kernels", isa=isa)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert last.startswith("pyprod.types.Unavailable: PYPROD_ISA=" + isa)
    assert "unset PYPROD_ISA" in last
