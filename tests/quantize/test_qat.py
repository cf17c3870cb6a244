"""Training under rounding: what it sees is what the integers will compute, and it gains where rounding costs."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.fuse import fuse
from pyprod.nn import Int8Linear, convert, dynamic_quantspec, static_quantspec
from pyprod.quantize import qat
from pyprod.quantize.qat import Rounding
from pyprod.quantize.simulate import simulated
from pyprod.step import Context, Made
from pyprod.types import Evaluation, PyprodError, QuantSpec, TensorQuant
from pyprod.workloads import Training, Workload
from pyprod.workloads._resnet import ResNet

ROWS = 512


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).eval()


def workload(model: nn.Module) -> Workload:
    """Two interleaved classes, which takes more than a line."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 6, generator=generator)
    labels = ((x[:, 0] * x[:, 1] + 0.5 * x[:, 2]) > 0).long()
    data = Training(mlp, (x,), labels, F.cross_entropy, epochs=10, batch=32, learning_rate=0.01)

    def score(logits: Tensor) -> Evaluation:
        return Evaluation("mean", (logits.argmax(1) == labels).float().tolist())

    return Workload(lambda: model, (x,), (x[:64],), score, training=lambda: data)


def trained_model() -> nn.Module:
    from pyprod.train import Settings, fit

    made = workload(mlp())
    assert made.training is not None
    return fit(mlp, made.training(), Settings(epochs=30), title="").model


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
@pytest.mark.parametrize("bits", [8, 4])
def test_what_training_sees_is_what_the_simulation_computes_bit_for_bit(scheme: str, bits: int) -> None:
    model = mlp()
    x = torch.randn(40, 6)
    spec = static_quantspec(model, (x,)) if scheme == "static" else dynamic_quantspec(model)
    spec = QuantSpec({name: TensorQuant("per_channel", bits) for name in spec.weights}, spec.activations)
    before = copy.deepcopy(model.state_dict())
    rounding = Rounding(model, spec)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # scales and biases, as training would have moved them
                parameter.mul_(torch.rand_like(parameter) * 0.4 + 0.8)
        seen = model(x)
    biases = {name: p.clone() for name, p in model.state_dict().items() if name.endswith("bias")}
    learned = rounding.remove()
    assert model.state_dict().keys() == before.keys()
    model.load_state_dict({**before, **biases})
    with simulated(model, learned), torch.inference_mode():
        assert torch.equal(model(x), seen)
    assert all(quant.bits == bits and len(quant.scale) == 16 for quant in list(learned.weights.values())[:2])


def test_the_kernels_compute_it_too() -> None:
    model, x = mlp(), torch.randn(40, 6)
    rounding = Rounding(model, dynamic_quantspec(model, 4))
    with torch.no_grad():
        seen = model(x)
    learned = rounding.remove()
    converted = convert(copy.deepcopy(model), learned)
    assert isinstance(converted, nn.Sequential)
    first = converted[0]
    assert isinstance(first, Int8Linear)
    codes = first.dequantized_weight() / first.weight_scale[:, None]
    assert codes.abs().max() <= 7.001
    torch.testing.assert_close(converted(x), seen, rtol=1e-4, atol=1e-4 * float(seen.abs().max()))
    fused = fuse(copy.deepcopy(model), learned, (x,))
    torch.testing.assert_close(fused(x), seen, rtol=1e-4, atol=1e-4 * float(seen.abs().max()))


def test_a_network_with_shortcuts_keeps_one_scale_for_each_tensor() -> None:
    """Two convolutions read the input of a block; the fused network rounds it once."""
    model, images = ResNet((8, 16)).eval(), torch.randn(20, 1, 8, 8)
    spec = static_quantspec(model, (images,))
    rounding = Rounding(model, spec)
    scales = [p for name, p in model.named_parameters() if "input_rounding" in name]
    assert len(scales) < len(spec.weights)
    with torch.no_grad():
        for scale in scales:
            scale.mul_(1.1)
        seen = model(images)
    learned = rounding.remove()
    with torch.inference_mode():
        got = fuse(model, learned, (images,))(images)
    assert (got - seen).norm() / seen.norm() < 0.05


def accuracy(model: nn.Module, spec: QuantSpec, made: Workload) -> float:
    with simulated(model, spec), torch.inference_mode():
        assert made.score is not None
        values = made.score(model(*made.inputs)).values
    return sum(values) / len(values)


def test_it_wins_back_what_three_bits_cost(tmp_path: Path) -> None:
    made = workload(trained_model())
    model = copy.deepcopy(made.model())
    coarse = static_quantspec(model, made.calibration)
    coarse = replace(coarse, weights={name: TensorQuant("per_channel", 2) for name in coarse.weights})
    before = accuracy(model, coarse, made)
    found = qat.apply(Made(model), Context(made, tmp_path), weight_bits=2, epochs=15, distill={"temperature": 2.0})
    assert found.quantspec is not None
    after = accuracy(found.model, found.quantspec, made)
    assert after > before + 0.02
    assert all(type(module) in (nn.Linear, nn.ReLU) for module in found.model)  # type: ignore[union-attr]
    assert "under the rounding" in found.notes[-1]


def test_gradients_reach_weights_scales_and_inputs() -> None:
    model, x = mlp(), torch.randn(40, 6, requires_grad=True)
    Rounding(model, static_quantspec(model, (x.detach(),)))
    loss: Tensor = model(x).square().sum()
    loss.backward()
    assert x.grad is not None
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_a_layer_that_is_not_there_is_said() -> None:
    with pytest.raises(PyprodError, match="did you mean"):
        Rounding(mlp(), QuantSpec({"00": TensorQuant("per_channel")}, {"00": TensorQuant("per_token")}))


def test_a_smoothed_input_is_refused_before_anything_is_changed() -> None:
    model = mlp()
    last, layer = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]
    spec = dynamic_quantspec(model, smoothing={last: [2.0] * layer.in_features})
    shifted = dynamic_quantspec(model, asymmetric=[last])
    with pytest.raises(PyprodError, match=f"{last}: zero points found at run time can't be trained under"):
        Rounding(model, shifted)
    with pytest.raises(PyprodError, match=f"{last}: a smoothed input can't be trained under"):
        Rounding(model, spec)
    assert not any(hasattr(module, "parametrizations") for module in model.modules())
