"""Ranges, the simulation against the kernels, which layers are fragile, and how many fit a budget."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyprod import nn as int8
from pyprod.fuse import fuse
from pyprod.nn import asymmetric, dynamic_quantspec, static_quantspec
from pyprod.quantize import mixed, observe, ptq, smooth
from pyprod.quantize.sensitivity import only, sensitivity
from pyprod.quantize.simulate import fake_quantized_activation, simulated
from pyprod.recipes import shapes
from pyprod.step import Context, Made
from pyprod.types import Evaluation, PyprodError, QuantSpec, TensorQuant, Unavailable
from pyprod.workloads import Workload
from pyprod.workloads._resnet import ResNet


def mlp(width: int = 24) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
    ).eval()


def test_dynamic_simulation_is_what_the_kernels_compute() -> None:
    model, x = mlp(random.randrange(1, 90)), torch.randn(random.randrange(1, 40), 16) * 3
    spec = dynamic_quantspec(model)
    float_output = model(x)
    with simulated(model, spec), torch.inference_mode():
        got = model(x)
    assert torch.equal(model(x), float_output), "the model is as it was"
    want = int8.convert(copy.deepcopy(model), spec)(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    assert not torch.allclose(got, float_output, rtol=1e-4)


def test_simulation_with_zero_points_is_what_the_kernels_compute() -> None:
    model, x = mlp(40), torch.randn(30, 16) * 3 + 2
    spec = dynamic_quantspec(model, smoothing={"2": (torch.rand(40) + 0.1).tolist()}, asymmetric=["0", "2"])
    want = int8.convert(copy.deepcopy(model), spec)(x)
    with simulated(model, spec), torch.inference_mode():
        torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("scheme", [{}, {"bits": 4, "group_size": 32}])
def test_simulation_of_smoothed_inputs_is_what_the_kernels_compute(scheme: dict[str, int]) -> None:
    model, x = mlp(40), torch.randn(30, 16) * torch.exp(2 * torch.randn(16))
    spec = dynamic_quantspec(
        model, **scheme, smoothing={"0": x.abs().amax(0).tolist(), "2": (torch.rand(40) + 0.1).tolist()}
    )
    want = int8.convert(copy.deepcopy(model), spec)(x)
    with simulated(model, spec), torch.inference_mode():
        torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    with torch.inference_mode():
        torch.testing.assert_close(fuse(model, spec, (x,))(x), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_static_simulation_of_a_cnn_is_close_to_the_kernels() -> None:
    """Sums of residuals and the pooling are rounded too in the fused network; the layers alone are simulated."""
    model, images = ResNet((8, 16)).eval(), torch.randn(20, 1, 8, 8)
    spec = static_quantspec(model, (images,))
    with torch.inference_mode():
        want = fuse(model, spec, (images,))(images)
        with simulated(model, spec):
            got = model(images)
    error = (got - want).norm() / want.norm()
    assert error < 0.05


@pytest.mark.parametrize("observer", observe.OBSERVERS)
def test_ranges_hold_zero_and_lie_within_what_was_seen(observer: observe.Observer) -> None:
    model, x = mlp(), torch.randn(200, 16) + random.choice([0, 5, -5])
    found = observe.ranges(model, (x,), observer)
    assert list(found) == ["0", "2", "4"]
    low, high = found["0"]
    assert min(0.0, float(x.min())) - 1e-5 <= low <= 0 <= high <= max(0.0, float(x.max())) + 1e-5
    if observer == "minmax":
        assert found["0"] == (min(0.0, float(x.min())), max(0.0, float(x.max())))


@pytest.mark.parametrize("observer", ["percentile", "mse", "entropy"])
def test_an_outlier_is_clipped_where_that_costs_less(observer: observe.Observer) -> None:
    x = torch.randn(4000, 16)
    x[17, 3] = 200.0
    low, high = observe.ranges(mlp(), (x,), observer)["0"]
    assert high < 199
    q = asymmetric(low, high)
    usual = x[:16]
    error = (fake_quantized_activation(usual, q) - usual).square().mean()
    whole = asymmetric(*observe.ranges(mlp(), (x,), "minmax")["0"])
    assert error < (fake_quantized_activation(usual, whole) - usual).square().mean()


def test_least_error_is_the_least_of_those_tried() -> None:
    """The slow obvious twin, on the values themselves."""
    values = np.random.standard_t(3, 50_000)
    whole = (float(min(0, values.min())), float(max(0, values.max())))
    histogram, _ = np.histogram(values, observe.BINS, whole)

    def error(share: float) -> float:
        low, high = whole[0] * share, whole[1] * share
        step = (high - low) / 255
        return float(np.mean((np.round((np.clip(values, low, high) - low) / step) * step + low - values) ** 2))

    low, _ = observe.least_error(histogram.astype(float), whole)
    assert error(low / whole[0]) <= 1.1 * min(map(error, observe.SHARES))


@pytest.mark.parametrize(
    ("rows", "observer", "words"),
    [
        (torch.zeros(0, 16), "minmax", "no calibration rows"),
        (torch.full((3, 16), float("nan")), "minmax", "the input of 0 is not finite"),
        (torch.full((3, 16), float("inf")), "entropy", "the input of 0 is not finite"),
        (torch.zeros(3, 16), "best", "unknown observer 'best'"),
    ],
)
def test_calibration_that_is_of_no_use(rows: Tensor, observer: observe.Observer, words: str) -> None:
    with pytest.raises(PyprodError, match=words):
        observe.ranges(mlp(), (rows,), observer)


@pytest.mark.parametrize("observer", observe.OBSERVERS)
def test_an_activation_that_is_always_zero(observer: observe.Observer) -> None:
    assert observe.ranges(mlp(), (torch.zeros(5, 16),), observer)["0"] == (0.0, 0.0)


def fragile(model: nn.Sequential) -> nn.Sequential:
    """The middle layer adds the difference of two large weights' products: rounding them loses all of it."""
    with torch.no_grad():
        model[2].weight[:, 0], model[2].weight[:, 1] = 1000.0, -1000.0
        model[0].weight[1], model[0].bias[1] = model[0].weight[0] * 1.001, model[0].bias[0]
    return model


def test_the_fragile_layer_comes_first() -> None:
    model, x = fragile(mlp()), torch.randn(64, 16)
    found = sensitivity(model, dynamic_quantspec(model), (x,))
    assert next(iter(found)) == "2"
    assert found["2"] > 5 * found["4"]
    assert all(error >= 0 for error in found.values())


def workload(model: nn.Module) -> Workload:
    x = torch.randn(300, 16)
    with torch.no_grad():
        truth = model(x)[:, 0].tolist()

    def score(outputs: Tensor) -> Evaluation:
        return Evaluation("pearson", outputs[:, 0].tolist(), truth)

    return Workload(lambda: model, (x,), (torch.randn(64, 16),), score)


def context(model: nn.Module, tmp_path: Path) -> Context:
    return Context(workload(model), tmp_path)


def test_mixed_precision_leaves_just_the_fragile_layer_in_float(tmp_path: Path) -> None:
    model = fragile(mlp())
    made = mixed.apply(Made(model), context(model, tmp_path), accuracy_drop=0.05)
    assert made.quantspec is not None
    assert set(made.quantspec.weights) == {"0", "4"}
    assert made.notes == ("2 of 3 layers quantized; in float: 2",)


def test_a_budget_for_all_or_for_none(tmp_path: Path) -> None:
    model = fragile(mlp())
    about = context(model, tmp_path)
    spec = dynamic_quantspec(model)
    robust = mlp()
    assert mixed.search(Made(robust), workload(robust), dynamic_quantspec(robust), 0.2).in_float == ()
    assert len(mixed.search(Made(model), about.workload, spec, 0.0).in_float) == 3


def test_no_metric_no_search(tmp_path: Path) -> None:
    model = mlp()
    blind = replace(workload(model), score=None)
    with pytest.raises(Unavailable, match="no metric"):
        mixed.apply(Made(model), Context(blind, tmp_path))
    with pytest.raises(PyprodError, match="a share of the metric"):
        mixed.apply(Made(model), context(model, tmp_path), accuracy_drop=2)


def test_ptq_names_what_stays_in_float(tmp_path: Path) -> None:
    model = mlp()
    made = ptq.apply(Made(model), context(model, tmp_path), scheme="static", observer="mse", keep_float=["4"])
    assert made.quantspec is not None
    assert list(made.quantspec.weights) == list(made.quantspec.activations) == ["0", "2"]
    assert made.notes == ("2 layers quantized, scales by mse; in float: 4",)
    assert QuantSpec.from_json(made.quantspec.to_json()).weights.keys() == made.quantspec.weights.keys()
    for wrong in ({"keep_float": ["9"]}, {"scheme": "lazy"}):
        with pytest.raises(PyprodError):
            ptq.apply(Made(model), context(model, tmp_path), **wrong)  # type: ignore[arg-type]


def test_static_by_minmax_is_the_default_scheme_of_cnns(tmp_path: Path) -> None:
    model, images = ResNet((8, 16)).eval(), torch.randn(40, 1, 8, 8)
    about = Context(Workload(lambda: model, (images,), (images,), None), tmp_path)
    made = ptq.apply(Made(model), about, scheme="static")
    want = static_quantspec(model, (images,))
    assert made.quantspec is not None
    assert made.quantspec.activations == want.activations
    assert made.quantspec.weights == want.weights


def test_a_spec_of_something_else_is_refused() -> None:
    model = mlp()
    spec = dynamic_quantspec(model)
    before = model(torch.ones(1, 16))
    with (
        pytest.raises(PyprodError, match="unknown linear layer or convolution '9'"),
        simulated(model, QuantSpec({"0": spec.weights["0"], "9": spec.weights["0"]}, {})),
    ):
        pass
    assert torch.equal(model(torch.ones(1, 16)), before)
    with pytest.raises(PyprodError, match="no kernel computes 4-bit per_token"):
        fake_quantized_activation(torch.ones(1, 4), TensorQuant("per_token", bits=4))
    assert only(spec, []).weights == {}


def test_smoothing_is_a_step_whose_result_comes_back_untied(tmp_path: Path) -> None:
    """A decoder's head has the weight of its embedding; smoothed it has its own, and is restored with it."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.norm = nn.Embedding(12, 8), nn.LayerNorm(8)
            self.head = nn.Linear(8, 12, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.norm(self.embedding(ids)))

    ids = torch.randint(12, (20, 5))
    made = Workload(lambda: Tied().eval(), (ids,), (ids,), None)
    model = made.model()
    with torch.no_grad():
        model.norm.weight[3] = 50.0  # type: ignore[union-attr, index]
        want = model(ids)
    found = smooth.apply(Made(model), Context(made, tmp_path))
    assert "moved into weights at 1 places" in found.notes[-1]
    restored = shapes.restore(Tied(), {key: t.clone() for key, t in found.model.state_dict().items()})
    torch.testing.assert_close(restored(ids), want, rtol=1e-4, atol=1e-4)
    assert restored.head.weight is not restored.embedding.weight  # type: ignore[union-attr]
    with pytest.raises(PyprodError, match="strength"):
        smooth.apply(Made(model), Context(made, tmp_path), strength=2.0)


def test_weights_in_groups_of_four_bits(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 70), nn.ReLU(), nn.Linear(70, 5)).eval()
    made = ptq.apply(Made(model), context(model, tmp_path), weight_bits=4, group_size=32, keep_8_bits=["0"])
    assert made.quantspec is not None
    assert made.quantspec.weights["2"] == TensorQuant("per_group", 4, group_size=32)
    assert made.quantspec.weights["0"].bits == 8
    assert made.notes == (
        "2 layers quantized to weights of 4 bits in groups of 32, scales found at run time; 8 bits: 0",
    )
    assert QuantSpec.from_json(json.loads(json.dumps(made.quantspec.to_json()))) == made.quantspec
    x = torch.randn(7, 16)
    with simulated(model, made.quantspec), torch.no_grad():
        want = model(x)
    assert (want - model(x)).norm() > 0.01 * want.norm()
    fused = fuse(model, made.quantspec, (x,))
    assert [str(n.target) for n in fused.graph.nodes if "int4" in str(n.target)] == ["pyprod.int4_linear.default"]
    for lowered in (fused, int8.convert(copy.deepcopy(model), made.quantspec)):
        assert torch.allclose(lowered(x), want, atol=1e-4 * float(want.abs().max()))
    for wrong in ({"group_size": 48}, {"group_size": 32, "weight_bits": 8}, {"group_size": 32, "scheme": "static"}):
        with pytest.raises(PyprodError, match="groups are of 32, 64, 128 weights of 4 bits"):
            ptq.apply(Made(model), context(model, tmp_path), **{"weight_bits": 4, **wrong})  # type: ignore[arg-type]
