"""Backends that quantize: what they say when there is nothing to quantize, and which layers they take."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pyprod import backends
from pyprod.backends import Request
from pyprod.nn import Int8Linear, dynamic_quantspec, static_quantspec
from pyprod.quantize.sensitivity import only
from pyprod.quantize.simulate import simulated
from pyprod.types import QuantSpec, TensorQuant, Unavailable
from tests.backends.tiny_models import build, inputs


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("onnxruntime.int8_dynamic", "no layer that this backend quantizes"),
        ("torchao.int8_dynamic", "no linear layer"),
        ("torchao.int8_weight_only", "no linear layer"),
    ],
)
def test_nothing_to_quantize(request_for: Callable[..., Request], backend: str, reason: str) -> None:
    module, variant = backends.split(backend)
    with pytest.raises(Unavailable, match=reason):
        module.prepare(request_for("conv_only", variant))


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("native.int8", "no linear layer"),
        ("native.int8_compiled", "no linear layer"),
        ("torch_quantized.x86", "no layer that this backend quantizes"),
        ("torch_quantized.onednn", "no layer that this backend quantizes"),
    ],
)
def test_neither_linears_nor_convolutions(request_for: Callable[..., Request], backend: str, reason: str) -> None:
    module, variant = backends.split(backend)
    with pytest.raises(Unavailable, match=reason):
        module.prepare(request_for("mlp", variant, model=torch.nn.Sequential(torch.nn.ReLU())))


@pytest.mark.parametrize("batch", [1, 3])
def test_native_on_a_transformer(request_for: Callable[..., Request], batch: int) -> None:
    module, variant = backends.split("native.int8")
    runner = module.prepare(request_for("transformer", variant, batch))
    moved, divided, shifted, note = runner.notes
    assert moved == "scale of outlying channels moved into weights at 2 places"
    assert divided == "inputs of 10 layers smoothed where they are quantized"
    assert shifted == "inputs of 2 layers with zero points"
    assert note.startswith("12 linear layers and 2 attentions in int8, the rest in float32; fused: activation 2,")
    fresh = inputs("transformer", batch, 5)
    with torch.inference_mode():
        want = build("transformer")(*fresh)
    assert float((runner.run(fresh) - want).norm() / want.norm()) < 6e-2


def test_native_lowers_the_quantspec_it_is_given(request_for: Callable[..., Request]) -> None:
    module, variant = backends.split("native.int8")
    request = request_for("mlp", variant)
    spec = QuantSpec({"down": TensorQuant("per_channel")}, {"down": TensorQuant("per_token")})
    fresh = inputs("mlp", 1, 5)
    with torch.inference_mode():
        hidden = request.model.up(*fresh).relu()
        want = Int8Linear.from_float(request.model.down)(hidden)
    runner = module.prepare(Request(**{**vars(request), "quantspec": spec}))
    assert torch.equal(runner.run(fresh), want)
    assert runner.notes == ("1 linear layers in int8, the rest in float32",)


def test_native_says_why_a_model_was_not_fused(request_for: Callable[..., Request]) -> None:
    class Branching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) if x.sum() > 0 else self.linear(-x)

    module, variant = backends.split("native.int8")
    runner = module.prepare(request_for("mlp", variant, model=Branching()))
    assert runner.notes[0] == "1 linear layers in int8, the rest in float32"
    assert runner.notes[1].startswith("not fused: torch.export can't trace the model: ")
    assert runner.run(inputs("mlp", 1, 5)).shape == (1, 4)


@pytest.mark.parametrize(
    ("backend", "note"),
    [
        ("onnxruntime.int8_dynamic", "12 of 16 matrix products"),
        ("onnxruntime.int8_static", "12 of 16 matrix products"),
        ("openvino.int8", "in u8"),
        ("torch_quantized.x86", "dynamic on linear layers"),
    ],
)
def test_notes_say_what_runs_in_integers(request_for: Callable[..., Request], backend: str, note: str) -> None:
    module, variant = backends.split(backend)
    assert any(note in line for line in module.prepare(request_for("transformer", variant)).notes)


def test_native_runs_a_cnn_in_one_call(request_for: Callable[..., Request]) -> None:
    module, variant = backends.split("native.int8")
    runner = module.prepare(request_for("conv_only", variant))
    assert "in one call" in runner.notes[0]


STATIC = [
    f"{name}.{variant}" for name, variant in (("native", "int8"), ("onnxruntime", "int8_static"), ("openvino", "int8"))
]


@pytest.mark.parametrize("model", ["cnn", "mlp", "transformer"])
@pytest.mark.parametrize("backend", STATIC)
@pytest.mark.parametrize("part", [False, True])
def test_static_scales_mean_the_same_integers_everywhere(
    request_for: Callable[..., Request], backend: str, model: str, part: bool
) -> None:
    """A QuantSpec of all layers, or of every other one: what each backend computes is what the simulation says."""
    module, variant = backends.split(backend)
    request = request_for(model, variant, 3)
    spec = static_quantspec(request.model, inputs(model, 32, 2))
    if part:
        spec = only(spec, list(spec.weights)[::2])
    fresh = inputs(model, 3, 5)
    with torch.inference_mode(), simulated(request.model, spec):
        want = request.model(*fresh)
    runner = module.prepare(Request(**{**vars(request), "quantspec": spec}))
    error = float((runner.run(fresh) - want).norm() / want.norm())
    assert error < 3e-2  # values on either side of a tie: a step is 1/255 of a range
    assert backends.lowers(backend, spec)


@pytest.mark.parametrize("backend", ["onnxruntime.int8_static", "openvino.int8"])
def test_scales_found_at_run_time_are_refused(request_for: Callable[..., Request], backend: str) -> None:
    module, variant = backends.split(backend)
    request = request_for("mlp", variant)
    spec = dynamic_quantspec(request.model)
    assert not backends.lowers(backend, spec)
    with pytest.raises(Unavailable, match="no scales per token that are found at run time"):
        module.prepare(Request(**{**vars(request), "quantspec": spec}))


def test_native_says_what_is_in_integers_unasked(request_for: Callable[..., Request]) -> None:
    module, variant = backends.split("native.int8")
    request = request_for("transformer", variant)
    spec = static_quantspec(request.model, inputs("transformer", 32, 2))
    runner = module.prepare(Request(**{**vars(request), "quantspec": spec}))
    assert "2 attentions in int8 too, which no QuantSpec names" in runner.notes


def test_native_says_what_stays_in_float(request_for: Callable[..., Request]) -> None:
    module, variant = backends.split("native.int8")
    request = request_for("cnn", variant)
    spec = static_quantspec(request.model, inputs("cnn", 32, 2))
    runner = module.prepare(Request(**{**vars(request), "quantspec": only(spec, ["conv2", "head"])}))
    assert runner.notes[0] == "1 convolution and 1 linear layer and what lies between them in int8, in one call"
    assert runner.notes[1] == "in float32: conv1"


def test_a_chain_of_linear_layers_is_calibrated_and_one_call(request_for: Callable[..., Request]) -> None:
    class Gated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(torch.sigmoid(self.up(x)))

    module, variant = backends.split("native.int8")
    runner = module.prepare(request_for("mlp", variant))
    assert runner.notes[0].startswith("2 linear layers and what lies between them in int8, in one call, calibrated on")
    runner = module.prepare(request_for("mlp", variant, model=Gated().eval()))
    assert runner.notes[-1].startswith("2 linear layers in int8, the rest in float32"), "not in two calls"


def test_grouped_convolutions_stay_in_float(request_for: Callable[..., Request]) -> None:
    class Depthwise(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.depth = torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 4, 3, groups=4)
            self.last = torch.nn.Conv2d(4, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.depth(self.first(x)).relu()).mean((2, 3))

    module, variant = backends.split("native.int8")
    request = request_for("cnn", variant, 2, model=Depthwise().eval())
    runner = module.prepare(request)
    assert "in float32: depth" in runner.notes
    fresh = inputs("cnn", 2, 5)
    with torch.inference_mode():
        want = request.model(*fresh)
    assert float((runner.run(fresh) - want).norm() / want.norm()) < 6e-2


@pytest.mark.parametrize(
    ("model", "products"), [("mlp", "2 of 2"), ("transformer", "12 of 16"), ("conv_only", "0 of 1")]
)
def test_onnxruntime_multiplies_in_integers_what_the_quantspec_says(
    request_for: Callable[..., Request], model: str, products: str
) -> None:
    """It falls back to float without a word, as for a convolution whose result stays in float."""
    module, variant = backends.split("onnxruntime.int8_static")
    request = request_for(model, variant, 3)
    spec = static_quantspec(request.model, inputs(model, 32, 2))
    runner = module.prepare(Request(**{**vars(request), "quantspec": spec}))
    assert f"{products} matrix products and convolutions in integers, the rest in float" in runner.notes


def test_what_runs_no_quantspec_runs_none_of_weights_alone() -> None:
    spec = QuantSpec({"up": TensorQuant("per_channel")}, {})
    assert not backends.lowers("eager.fp32", spec)
    assert backends.lowers("native.int8", spec)
