"""A QuantSpec as QDQ: the arithmetic of the simulation, in every runtime."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pyprod.export import onnx_file, onnx_qdq, onnx_runtimes
from pyprod.export.order import Order
from pyprod.export.program import trace
from pyprod.nn import dynamic_quantspec, static_quantspec
from pyprod.quantize.simulate import simulation
from pyprod.types import PyprodError, QuantSpec, TensorQuant, Unavailable
from tests.export.toy import Convolutions, images, seeded


@pytest.fixture
def order() -> Order:
    model = seeded(Convolutions())
    return Order(model, images(2), quantspec=static_quantspec(model, images(40)))


def test_every_runtime_computes_what_the_simulation_does(order: Order, tmp_path: Path) -> None:
    written = onnx_qdq.write(order, tmp_path / "model.onnx")
    assert written.facts["layers"] == 3
    assert order.quantspec is not None
    reference, x = simulation(copy.deepcopy(order.model), order.quantspec), torch.randn(9, 3, 8, 8)
    want = reference(x)
    for name, read in onnx_qdq.readers(order, tmp_path / "model.onnx").items():
        error = (read((x,)) - want).norm() / want.norm()
        assert error < 0.02, name
    assert (order.model(x) - want).norm() / want.norm() > 1e-4  # the rounding that they agree on


def test_weights_are_stored_in_integers_and_float_ones_are_gone(order: Order, tmp_path: Path) -> None:
    onnx_qdq.write(order, tmp_path / "model.onnx")
    graph = onnx_file.load(tmp_path / "model.onnx").graph
    sizes = {t.name: (t.data_type, int(np.prod(t.dims))) for t in graph.initializer}
    codes = [size for name, (kind, size) in sizes.items() if kind == onnx.TensorProto.INT8 and "zero_point" not in name]
    assert sum(codes) == 3 * 36 + 4 * 36 + 20
    assert max(size for kind, size in sizes.values() if kind == onnx.TensorProto.FLOAT) <= 5


def test_integers_are_the_models_own_and_a_batch_norm_goes_into_their_scale(order: Order, tmp_path: Path) -> None:
    onnx_qdq.write(order, tmp_path / "model.onnx")
    held = {t.name: numpy_helper.to_array(t) for t in onnx_file.load(tmp_path / "model.onnx").graph.initializer}
    (name,) = (n for n, array in held.items() if array.dtype == np.int8 and array.shape == (4, 3, 3, 3))
    model, quantspec = order.model, order.quantspec
    assert isinstance(model, Convolutions)
    assert quantspec is not None
    scale = torch.tensor(quantspec.weights["conv"].scale)
    codes = torch.round(model.conv.weight.flatten(1) / scale[:, None]).reshape(4, 3, 3, 3)
    assert model.norm.running_var is not None
    factor = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    assert bool((factor < 0).any())
    assert bool((factor > 0).any())
    assert np.array_equal(held[name], (codes * factor.sign()[:, None, None, None]).detach().numpy())
    assert np.allclose(held[f"{name}_scale"], (scale * factor.abs()).detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("transposed", [True, False])
def test_linear_layers_however_they_are_written(transposed: bool, tmp_path: Path) -> None:
    """Rows alone become Gemm, with the weight as it is; a third dimension MatMul, with the weight transposed."""
    model = seeded(nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)))
    shape = (5, 6) if transposed else (5, 2, 6)
    x = torch.randn(*shape)
    order = Order(model, (x,), quantspec=static_quantspec(model, (torch.randn(40, *shape[1:]),)))
    onnx_qdq.write(order, tmp_path / "model.onnx")
    operators = Counter(node.op_type for node in onnx_file.load(tmp_path / "model.onnx").graph.node)
    assert operators["QuantizeLinear"] == 2
    assert order.quantspec is not None
    want = simulation(copy.deepcopy(model), order.quantspec)(x).detach()
    for name, read in onnx_qdq.readers(order, tmp_path / "model.onnx").items():
        assert float((read((x,)) - want).norm() / want.norm()) < 0.02, name


def test_an_activation_that_two_layers_read_is_rounded_once(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(x) * self.second(x)

    model = seeded(Twice())
    order = Order(model, (torch.randn(5, 6),), quantspec=static_quantspec(model, (torch.randn(40, 6),)))
    onnx_qdq.write(order, tmp_path / "model.onnx")
    operators = Counter(node.op_type for node in onnx_file.load(tmp_path / "model.onnx").graph.node)
    assert operators["QuantizeLinear"] == 1


def test_what_it_can_not_express_is_refused(order: Order, tmp_path: Path) -> None:
    def write(quantspec: QuantSpec | None) -> None:
        onnx_qdq.write(Order(order.model, order.example, quantspec=quantspec), tmp_path / "model.onnx")

    with pytest.raises(Unavailable, match="no QuantSpec"):
        write(None)
    with pytest.raises(Unavailable, match="per token"):
        write(dynamic_quantspec(order.model))
    wide = QuantSpec({"head": TensorQuant("per_channel", 16)}, {})
    with pytest.raises(Unavailable, match="8 bits"):
        write(wide)
    static = TensorQuant("per_tensor", scale=(0.1,), zero_point=(0,))
    with pytest.raises(PyprodError, match="tail"):
        write(QuantSpec({"tail": TensorQuant("per_channel")}, {"tail": static}))
    assert not list(tmp_path.iterdir())


def test_a_weight_that_was_changed_in_another_way_is_refused(order: Order) -> None:
    made = onnx_file.convert(trace(order.model, order.example))
    weight = next(t for t in made.model.graph.initializer if t.name == "head.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) ** 2, "head.weight"))
    assert order.quantspec is not None
    with pytest.raises(PyprodError, match="not the layer's"):
        onnx_qdq.quantize(made.model, order.model, order.quantspec)


def test_onnx_runtime_computes_in_integers_between_rounded_layers(order: Order, tmp_path: Path) -> None:
    onnx_qdq.write(order, tmp_path / "model.onnx")
    assert onnx_runtimes.optimized_nodes(tmp_path / "model.onnx", 1)["all"].get("QLinearConv", 0) >= 1
