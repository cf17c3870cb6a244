"""Each pass on a small model: the graph holds what the pass promises, and computes what the model computed."""

from __future__ import annotations

import copy
import io
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod import fuse as room
from pyprod.fuse import Untraceable, fuse, passes
from pyprod.nn import convert, dynamic_quantspec
from pyprod.types import PyprodError, QuantSpec, TensorQuant

WIDTH = 32


class PreNorm(nn.Module):
    """A Llama-like block: rms norms spelled out, shared keys, a gate; two of them, to have sums between."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ParameterList(torch.rand(WIDTH) + 0.5 for _ in range(5))
        self.q, self.out = (nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2)) for _ in range(2))
        self.k, self.v = (nn.ModuleList(nn.Linear(WIDTH, WIDTH // 2, bias=False) for _ in range(2)) for _ in range(2))
        self.gate, self.up = (nn.ModuleList(nn.Linear(WIDTH, 48, bias=False) for _ in range(2)) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(48, WIDTH, bias=False) for _ in range(2))
        self.embedding = nn.Embedding(20, WIDTH)
        self.head = nn.Linear(WIDTH, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for i in range(2):
            normed = self.norm(x, 2 * i)
            q, k, v = (self.heads(layer[i](normed)) for layer in (self.q, self.k, self.v))
            k, v = torch.stack((k, v), 1).repeat_interleave(2, 2).unbind(1)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out[i](mixed.transpose(1, 2).flatten(2))
            normed = self.norm(x, 2 * i + 1)
            x = x + self.down[i](F.silu(self.gate[i](normed)) * self.up[i](normed))
        return self.head(self.norm(x, 4))

    def norm(self, x: Tensor, index: int) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.norms[index]

    @staticmethod
    def heads(x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, 8).transpose(1, 2)


class PostNorm(nn.Module):
    """A BERT-like block: sums that only their norm reads, a GELU, an attention mask."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        q, k, v = (PreNorm.heads(layer(x)) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None])
        x = self.first(x + self.out(mixed.transpose(1, 2).reshape(x.shape)))
        return self.second(x + self.down(F.gelu(self.up(x))))


def pre_norm() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return PreNorm().eval(), (torch.randint(20, (2, 9)),)


def post_norm() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return PostNorm().eval(), (torch.randn(2, 9, WIDTH), torch.rand(2, 9) < 0.8)


def operators(module: torch.fx.GraphModule) -> Counter[str]:
    names = (str(node.target) for node in module.graph.nodes if node.op == "call_function")
    return Counter(
        name.removeprefix("pyprod.").removesuffix(".default") for name in names if name.startswith("pyprod.")
    )


def close(got: Tensor, want: Tensor, tolerance: float) -> bool:
    return bool((got - want).norm() < tolerance * want.norm())


@pytest.mark.parametrize(
    ("make", "rewritten", "fused"),
    [
        (
            pre_norm,
            {
                "linear": 15,
                "rms_norm": 5,
                "unstack": 4,
                "gated": 2,
                "merge": 4,
                "attention": 2,
                "norm": 5,
                "self_attention": 2,
                "residual": 0,
            },
            {
                "rms_norm_quantize": 1,
                "add_rms_norm_quantize": 4,
                "int8_self_attention": 2,
                "silu_mul_quantize": 2,
                "int8_linear": 2,
                "int8_linear_prequantized": 5,
            },
        ),
        (
            post_norm,
            {"linear": 6, "activation": 1, "merge": 1, "attention": 1, "norm": 2, "residual": 0},
            {
                "add_layer_norm_quantize": 1,
                "add_layer_norm": 1,
                "int8_attention_packed": 1,
                "int8_linear": 3,
                "int8_linear_prequantized": 1,
            },
        ),
    ],
)
@torch.no_grad()
def test_blocks(make, rewritten, fused) -> None:
    model, example = make()
    spec = dynamic_quantspec(model)
    converted, want = convert(copy.deepcopy(model), spec)(*example), model(*example)
    module = fuse(model, spec, example)
    assert {name: module.meta["rewritten"][name] for name in rewritten} == rewritten
    assert operators(module) == fused
    got = module(*example)
    # The linears compute as `convert` makes them; attention adds 1.6% of its own (tests/kernels/test_attention.py),
    # which the layers behind it requantize.
    assert close(got, converted, 0.03)
    assert close(got, want, 0.06)
    assert torch.equal(model(*example), want)  # left as it was
    assert not list(module.parameters())
    assert "aten.linear" not in module.code


@torch.no_grad()
def test_smoothing_is_done_by_what_quantizes() -> None:
    """By the norm's kernel, which keeps its row as it is, or by the linear's; layers that want the same are merged."""
    model, example = post_norm()
    layers = {"q": 1, "k": 1, "v": 1, "out": 2, "up": 3, "down": 4}
    widths = {name: model.get_submodule(name).in_features for name in layers}
    smoothing = {name: (torch.rand(widths[name], generator=torch.Generator().manual_seed(seed)) + 0.5).tolist()
                 for name, seed in layers.items()}  # fmt: skip
    spec = dynamic_quantspec(model, smoothing=smoothing)
    module, plain = fuse(model, spec, example), fuse(model, dynamic_quantspec(model), example)
    assert operators(module) == operators(plain)
    assert "aten.mul" not in module.code
    assert close(module(*example), convert(copy.deepcopy(model), spec)(*example), 0.03)
    assert close(module(*example), model(*example), 0.06)
    assert torch.equal(plain(*example), fuse(model, dynamic_quantspec(model, smoothing={}), example)(*example))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("swapped", [False, True])
@torch.no_grad()
def test_positions_are_added_by_the_norm(batch: int, swapped: bool) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions, self.norm = nn.Parameter(torch.randn(9, WIDTH)), nn.LayerNorm(WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            normed = self.norm(self.positions + x if swapped else x + self.positions)
            return normed + self.down(F.gelu(self.up(normed)))

    model, x = First().eval(), torch.randn(batch, 9, WIDTH)
    spec = dynamic_quantspec(model)
    module = fuse(model, spec, (x,))
    assert operators(module)["add_layer_norm_quantize"] == 1
    assert "aten.add" not in module.code
    assert all(buffer.shape[:2] != (3, 9) for buffer in module.buffers())  # the positions are not stored three times
    assert close(module(x), convert(copy.deepcopy(model), spec)(x), 1e-3)


@torch.no_grad()
def test_a_smoothed_product_of_a_gate_is_quantized_by_its_layer() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(F.silu(self.gate(x)) * self.up(x))

    model, x = Gate().eval(), torch.randn(5, WIDTH)
    spec = dynamic_quantspec(model, smoothing={"down": (torch.rand(64) + 0.5).tolist()})
    module = fuse(model, spec, (x,))
    assert module.meta["rewritten"]["gated"] == 0
    assert close(module(x), convert(copy.deepcopy(model), spec)(x), 1e-3)


@torch.no_grad()
def test_layers_that_want_other_smoothing_of_one_norm_quantize_for_themselves() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)

        def forward(self, x: Tensor) -> Tensor:
            normed = self.norm(x + 1)
            return self.a(normed) + self.b(normed)

    model, x = Two().eval(), torch.randn(5, WIDTH)
    for smoothing in ({"a": [2.0] * WIDTH}, {"a": [2.0] * WIDTH, "b": torch.linspace(0.5, 1.5, WIDTH).tolist()}):
        spec = dynamic_quantspec(model, smoothing=smoothing)
        module = fuse(model, spec, (x,))
        assert module.meta["rewritten"]["merge"] == 0
        assert close(module(x), convert(copy.deepcopy(model), spec)(x), 1e-3)
        assert close(module(x), model(x), 0.03)


@torch.no_grad()
def test_no_attention_the_bits_of_convert() -> None:
    """All passes but attention only move work: float32 sums stay in their order, so single bits at most differ."""

    class Perceptron(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.gate, self.down = nn.Linear(33, 70), nn.Linear(33, 70), nn.Linear(70, 33)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(F.silu(self.gate(x)) * self.up(x))

    model, x = Perceptron().eval(), torch.randn(5, 33)
    spec = dynamic_quantspec(model)
    module = fuse(model, spec, (x,))
    assert operators(module) == {"int8_linear": 1, "silu_mul_quantize": 1, "int8_linear_prequantized": 1}
    assert module.meta["rewritten"]["residual"] == 1
    assert close(module(x), convert(copy.deepcopy(model), spec)(x), 1e-3)


@pytest.mark.parametrize(("factor", "dtype"), [(1.0, torch.float16), (1e-7, torch.float32), (1e8, torch.float32)])
@torch.no_grad()
def test_a_table_has_a_scale_for_each_row(factor: float, dtype: torch.dtype) -> None:
    """In float16 where that holds all of them, a row of zeros among them."""
    model = nn.Sequential(nn.Embedding(300, 1000), nn.Linear(1000, 4)).eval()
    table = model[0].weight
    table.mul_(factor * torch.exp(torch.randn(300, 1)))
    table[7] = 0
    module = fuse(model, dynamic_quantspec(model), (torch.arange(300),))
    assert module.meta["rewritten"]["embedding"] == 1
    held = dict(module.named_buffers())
    (q,) = (value for name, value in held.items() if name.endswith("rows_int8"))
    (scale,) = (value for name, value in held.items() if name.endswith("rows_scale"))
    assert (q.dtype, scale.dtype) == (torch.int8, dtype)
    step = table.abs().amax(1, keepdim=True) / 127
    assert ((q * scale.float() - table).abs() <= 0.57 * step).all()  # 127 times the 2**-11 that float16 is off, besides
    assert close(module(torch.arange(300)), model(torch.arange(300)), 0.03)


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "gelu_tanh"])
@torch.no_grad()
def test_activation(activation: str) -> None:
    approximate = "tanh" if activation == "gelu_tanh" else "none"
    layer = nn.GELU(approximate) if "gelu" in activation else {"relu": nn.ReLU(), "silu": nn.SiLU()}[activation]
    model, x = nn.Sequential(nn.Linear(8, 40), layer).eval(), torch.randn(3, 8)
    spec = dynamic_quantspec(model)
    module = fuse(model, spec, (x,))
    (linear,) = (node for node in module.graph.nodes if "int8_linear" in str(node.target))
    assert activation in linear.args
    assert torch.allclose(module(x), convert(copy.deepcopy(model), spec)(x), atol=1e-6)


@torch.no_grad()
def test_what_others_read_is_not_fused_away() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(16, 16), nn.Linear(16, 16), nn.LayerNorm(16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            total = x + y
            normed = self.norm(total)
            return self.b(normed) + F.relu(y) + normed * total

    model, x = Shared().eval(), torch.randn(4, 16)
    spec = dynamic_quantspec(model)
    module = fuse(model, spec, (x,))
    assert torch.allclose(module(x), convert(copy.deepcopy(model), spec)(x), atol=1e-6)
    assert module.meta["rewritten"]["activation"] == module.meta["rewritten"]["norm"] == 0


@torch.no_grad()
def test_only_the_named_layers() -> None:
    model, example = post_norm()
    spec = QuantSpec({"down": TensorQuant("per_channel")}, {"down": TensorQuant("per_token")})
    module = fuse(model, spec, example)
    assert operators(module)["int8_linear"] == 1
    assert any(name.endswith("up_weight") for name, _ in module.named_buffers())
    assert not any(name.endswith("down_weight") for name, _ in module.named_buffers())


@torch.no_grad()
def test_compiles_and_saves() -> None:
    model, example = post_norm()
    module = fuse(model, dynamic_quantspec(model), example)
    want = module(*example)
    assert torch.equal(torch.compile(module, fullgraph=True, backend="aot_eager")(*example), want)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    for buffer in module.buffers():
        buffer.zero_()
    assert not torch.equal(module(*example), want)
    module.load_state_dict(state)
    assert torch.equal(module(*example), want)
    assert not module.training
    assert torch.equal(copy.deepcopy(module)(*example), want)
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    assert torch.equal(torch.load(saved, weights_only=False)(*example), want)


def test_refusals() -> None:
    model, example = post_norm()
    with pytest.raises(PyprodError, match=r"unknown nn\.Linear or nn\.Conv2d 'dwon'; did you mean 'down'"):
        fuse(model, QuantSpec({"dwon": TensorQuant("per_channel")}, {}), example)
    with pytest.raises(PyprodError, match=r"^down: Int8Linear needs 8-bit dynamic per_token activations, got none"):
        fuse(model, QuantSpec({"down": TensorQuant("per_channel")}, {}), example)
    with pytest.raises(Untraceable, match="the model returns a dict, not tensors"):
        fuse(Named().eval(), QuantSpec({}, {}), (torch.randn(2),))


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": x + 1}


def test_order() -> None:
    order = list(passes())
    for name, module in passes().items():
        assert module.__doc__.strip(), name
        assert all(order.index(before) < order.index(name) for before in getattr(module, "AFTER", ()))


def test_a_pass_after_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.discover.load("pyprod.fuse", "norm"), "AFTER", ("mergee",))
    with pytest.raises(PyprodError, match=r"mergee.*did you mean 'merge'"):
        passes()
