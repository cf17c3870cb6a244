"""Int8Linear and convert on a small model trained on real data."""

import copy
import pickle

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from pyprod.kernels.int4_linear import int4_linear_reference, quantize_int4_weight
from pyprod.nn import Int8Linear, convert, dynamic_quantspec, int4_weight
from pyprod.types import PyprodError, QuantSpec, TensorQuant


@pytest.fixture(scope="module")
def digits():
    """1,797 scikit-learn digits, the last 500 held out, and an MLP that reads them: (model, inputs, labels)."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # layers too small to share: two threads on a busy machine take ten times as long
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 65), nn.GELU(), nn.Linear(65, 10))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:-500]), y[:-500]).backward()
        optimizer.step()
    torch.set_num_threads(threads)
    return model.eval(), x[-500:], y[-500:]


def fresh(digits):
    return copy.deepcopy(digits[0])


def test_convert_keeps_the_accuracy(digits):
    model, x, y = digits
    converted = convert(fresh(digits), dynamic_quantspec(model))
    assert [type(m) for m in converted] == [Int8Linear, nn.ReLU, Int8Linear, nn.GELU, Int8Linear]
    with torch.no_grad():
        want, got = model(x), converted(x)
    right = (want.argmax(1) == y, got.argmax(1) == y)
    assert right[0].float().mean() > 0.85
    assert (right[0] != right[1]).sum() <= 5  # 1% of the images
    assert (got - want).norm() < 0.03 * want.norm()


def test_layer_is_the_float_layer_on_quantized_numbers(digits):
    layer = digits[0][0]
    quantized = Int8Linear.from_float(layer)
    half_step = quantized.weight_scale[:, None] / 2
    assert ((quantized.dequantized_weight() - layer.weight).abs() <= half_step * (1 + 1e-5)).all()
    fused = Int8Linear.from_float(layer, activation="relu")
    x = digits[1].reshape(5, 100, 64)
    assert torch.equal(fused(x), quantized(x).relu())
    assert "in_features=64, out_features=128, bias=True, activation=relu" in repr(fused)


def test_zero_channels_and_no_bias():
    layer = nn.Linear(7, 5, bias=False)
    nn.init.zeros_(layer.weight)
    assert torch.equal(Int8Linear.from_float(layer)(torch.randn(3, 7)), torch.zeros(3, 5))


def test_state_dict_copy_pickle(digits):
    x = digits[1]
    converted = convert(fresh(digits), dynamic_quantspec(digits[0]))
    want = converted(x)
    assert torch.equal(copy.deepcopy(converted)(x), want)
    assert torch.equal(pickle.loads(pickle.dumps(converted))(x), want)
    other = convert(nn.Sequential(*(copy.deepcopy(m) for m in digits[0])), dynamic_quantspec(digits[0]))
    for parameter in other.buffers():
        parameter.zero_()
    other.load_state_dict(converted.state_dict())
    assert torch.equal(other(x), want)


def test_casting_a_model_casts_no_scale(digits):
    converted = convert(fresh(digits), dynamic_quantspec(digits[0]))
    scale = converted[0].weight_scale.clone()
    out = converted.bfloat16()(digits[1].bfloat16())
    assert out.dtype == torch.bfloat16
    assert torch.equal(converted[0].weight_scale, scale)
    meta = converted.to("meta")
    assert {b.device.type for b in meta.buffers()} == {"meta"}


def test_compile_and_export(digits):
    x = digits[1]
    converted = convert(fresh(digits), dynamic_quantspec(digits[0]))
    want = converted(x)
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), want)
    exported = torch.export.export(converted, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert torch.equal(exported.module()(x[:7]), want[:7])
    targets = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.pyprod.int8_linear.default) == 3


def test_only_the_named_layers_are_swapped(digits):
    spec = dynamic_quantspec(digits[0])
    part = QuantSpec({"2": spec.weights["2"]}, {"2": spec.activations["2"]})
    converted = convert(fresh(digits), QuantSpec.from_json(part.to_json()))
    assert [isinstance(m, Int8Linear) for m in converted] == [False, False, True, False, False]
    assert not any(p.requires_grad for p in converted.parameters())


def test_shared_and_root_layers():
    layer = nn.Linear(4, 4)
    shared = nn.ModuleDict({"a": layer, "b": layer})
    converted = convert(shared, dynamic_quantspec(shared))
    assert converted["a"] is converted["b"]
    assert isinstance(convert(layer, dynamic_quantspec(layer)), Int8Linear)


def test_attention_keeps_its_projection():
    """nn.MultiheadAttention reads out_proj.weight itself: that subclass of nn.Linear is not ours to swap."""
    assert dynamic_quantspec(nn.MultiheadAttention(8, 2)).weights == {}


@pytest.mark.parametrize(
    ("weight", "activation", "message"),
    [
        (TensorQuant("per_channel", bits=16), TensorQuant("per_token"), "got 16-bit dynamic per_channel"),
        (TensorQuant("per_tensor", scale=(0.1,), zero_point=(3,)), TensorQuant("per_token"), "with zero points"),
        (TensorQuant("per_channel", scale=(0.1, 0.2)), TensorQuant("per_token"), "need 1 or 128 weight scales, got 2"),
        (TensorQuant("per_channel"), TensorQuant("per_tensor", scale=(0.1,)), "got 8-bit static per_tensor"),
        (TensorQuant("per_channel"), None, "per_token activations, got none"),
        (TensorQuant("per_channel"), TensorQuant("per_token", smoothing=(2.0,)), "smoothing of 64 channels, got 1"),
    ],
)
def test_a_scheme_that_is_not_ours_is_refused(digits, weight, activation, message):
    good = dynamic_quantspec(digits[0])
    activations = {"2": good.activations["2"]} | ({"0": activation} if activation else {})
    spec = QuantSpec({"2": good.weights["2"], "0": weight}, activations)
    model = fresh(digits)
    with pytest.raises(PyprodError, match=f"^0: .*{message}"):
        convert(model, spec)
    assert type(model[2]) is nn.Linear  # refused as a whole


def test_an_unknown_layer_changes_nothing(digits):
    model = nn.Sequential()
    model.add_module("query", nn.Linear(2, 2))
    quant = TensorQuant("per_channel")
    with pytest.raises(PyprodError, match=r"unknown nn\.Linear 'querry'; did you mean 'query'"):
        convert(model, QuantSpec({"query": quant, "querry": quant}, {"query": TensorQuant("per_token")}))
    assert type(model.query) is nn.Linear


@pytest.mark.parametrize("scheme", [{}, {"bits": 4, "group_size": 32}])
def test_a_smoothed_layer_is_nearer_to_the_float_one(scheme):
    linear, x = nn.Linear(64, 20), torch.randn(50, 64)
    x[:, 3] *= 100
    smoothing = (x.abs().amax(0).sqrt()).tolist()
    want = linear(x)
    plain, smoothed = (
        convert(copy.deepcopy(linear), dynamic_quantspec(linear, **scheme, smoothing=s)) for s in ({}, {"": smoothing})
    )
    assert (smoothed(x) - want).norm() < (plain(x) - want).norm() / 2
    assert (smoothed.dequantized_weight() - linear.weight).norm() < 0.2 * linear.weight.norm()
    half = copy.deepcopy(smoothed).half()
    assert half.multiplier.dtype == torch.float32
    assert half(x.half()).dtype == torch.float16
    assert torch.equal(half(x), smoothed(x))


@pytest.mark.parametrize("smoothed", [False, True])
def test_zero_points_halve_the_error_of_what_is_positive(smoothed):
    linear, x = nn.Linear(64, 200), torch.rand(50, 64)
    smoothing = {"": (torch.rand(64) + 0.5).tolist()} if smoothed else {}
    plain, shifted = (
        convert(copy.deepcopy(linear), dynamic_quantspec(linear, smoothing=smoothing, asymmetric=names))
        for names in ([], [""])
    )
    exact = torch.nn.functional.linear(x, plain.dequantized_weight(), linear.bias.detach())
    assert torch.equal(plain.dequantized_weight(), shifted.dequantized_weight())
    assert (shifted(x) - exact).norm() == pytest.approx(0.5 * (plain(x) - exact).norm().item(), rel=0.1)
    assert torch.equal(copy.deepcopy(shifted).half()(x), shifted(x))
    assert "asymmetric" in repr(shifted)
    with pytest.raises(PyprodError, match="head: Int4Linear computes no activations with zero points"):
        int4_weight("head", linear.weight, TensorQuant("per_group", 4, group_size=32),
                    TensorQuant("per_token", asymmetric=True))  # fmt: skip


def test_int4_linear_is_the_kernel_and_stays_in_its_formats():
    linear = nn.Linear(100, 40)
    spec = dynamic_quantspec(linear, 4, 64)
    made = convert(copy.deepcopy(linear), spec)
    x = torch.randn(5, 100)
    weight = quantize_int4_weight(linear.weight.detach(), 64, symmetric=False)
    assert torch.equal(made(x), int4_linear_reference(x, weight, linear.bias))
    assert torch.equal(made.dequantized_weight(), weight.dequantize())
    half = copy.deepcopy(made).half()
    assert half.bias.dtype == torch.float32
    assert torch.equal(half(x), made(x))
    assert "group_size=64" in repr(made)
    with pytest.raises(PyprodError, match=r"head: Int4Linear needs a weight of 4 bits per group of 32, 64, 128"):
        int4_weight("head", linear.weight, TensorQuant("per_group", 4, group_size=16), TensorQuant("per_token"))
    with pytest.raises(PyprodError, match=r"head: Int4Linear needs 8-bit dynamic per_token activations, got none"):
        int4_weight("head", linear.weight, TensorQuant("per_group", 4, group_size=32), None)
