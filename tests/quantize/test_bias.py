"""Bias correction: channels keep the means that they have in float."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyprod.nn import layers, static_quantspec
from pyprod.quantize import ptq
from pyprod.quantize.bias import correct_bias
from pyprod.quantize.simulate import simulated
from pyprod.types import PyprodError, QuantSpec
from pyprod.workloads import Workload
from pyprod.workloads._resnet import ResNet
from tests.quantize.test_quantize import mlp


def outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _i, output, name=name: found.__setitem__(name, output))
        for name, layer in layers(model)
    ]
    with torch.inference_mode():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def coarse(model: nn.Module, x: Tensor) -> QuantSpec:
    """Weights of 3 bits: their rounding shifts means."""

    class Rows(Workload):
        calibration = (x,)

    return ptq.quantspec(model, Rows.__new__(Rows), "static", weight_bits=3)


@pytest.mark.parametrize("which", ["mlp", "cnn"])
def test_means_are_those_of_float(which: str) -> None:
    model = mlp() if which == "mlp" else ResNet((8, 16)).eval()
    x = torch.rand(64, 16) if which == "mlp" else torch.rand(24, 1, 8, 8)
    spec, before = coarse(model, x), outputs(model, x)
    with simulated(model, spec):
        rounded = outputs(model, x)
    assert correct_bias(model, spec, (x,)) == len(spec.weights)
    with simulated(model, spec):
        corrected = outputs(model, x)

    def mean(output: Tensor) -> Tensor:
        return output.mean((0, 2, 3) if output.dim() == 4 else 0)

    for name, output in before.items():
        size = float(output.abs().mean())
        torch.testing.assert_close(mean(corrected[name]), mean(output), rtol=0, atol=1e-4 * size)
    last = list(before)[-1]
    assert (mean(rounded[last]) - mean(before[last])).norm() > 1e-3
    assert (corrected[last] - before[last]).norm() < (rounded[last] - before[last]).norm()


def test_a_layer_without_a_bias_gets_one() -> None:
    model = nn.Sequential(nn.Linear(16, 8, bias=False)).eval()
    x = torch.rand(30, 16)
    correct_bias(model, coarse(model, x), (x,))
    assert model[0].bias.shape == (8,)
    assert bool(model[0].bias.detach().abs().sum() > 0)


def test_bad_rows_are_refused() -> None:
    model = mlp()
    spec = static_quantspec(model, (torch.rand(4, 16),))
    with pytest.raises(PyprodError, match="needs calibration rows"):
        correct_bias(model, spec, (torch.rand(0, 16),))
    with pytest.raises(PyprodError, match=r"the output of \S+ is not finite"):
        correct_bias(model, spec, (torch.full((4, 16), torch.nan),))
