"""A QuantSpec of linear layers on our own operator in ONNX Runtime."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.export import onnx_file, onnx_native, parity
from pyprod.export.deliver import Check, Rejected, deliver
from pyprod.export.order import Order
from pyprod.nn import convert, dynamic_quantspec, static_quantspec
from pyprod.quantize.simulate import simulation
from pyprod.types import PyprodError, QuantSpec, TensorQuant, Unavailable
from tests.export.toy import SEQUENCE, Attention, Convolutions, images, seeded, tokens


class Layers(nn.Module):
    """What a linear layer may be followed by, on rows and on sequences; one layer is used twice, one has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(6, 6)
        self.gelu, self.tanh, self.relu = (nn.Linear(6, 6) for _ in range(3))
        self.read_twice = nn.Linear(6, 6)
        self.bare = nn.Linear(6, 33, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(x))
        x = F.relu(self.relu(F.gelu(self.tanh(F.gelu(self.gelu(x))), approximate="tanh")))
        y = self.read_twice(x)
        return self.bare(F.gelu(y) * y)


def order(model: nn.Module, example: tuple[Tensor, ...]) -> Order:
    return Order(model, example, quantspec=dynamic_quantspec(model))


@pytest.mark.parametrize("rank", [2, 3])
def test_it_computes_what_our_layers_do(rank: int, tmp_path: Path) -> None:
    """Rows alone become Gemm, with the weight as it is; a third dimension MatMul, with the weight transposed."""
    model = seeded(Layers())
    x = torch.randn(4, 5, 6) if rank == 3 else torch.randn(20, 6)
    asked = order(model, (x[:2],))
    written = onnx_native.write(asked, tmp_path / "m.onnx")
    assert written.facts["layers"] == 7
    graph = onnx_file.load(tmp_path / "m.onnx").graph
    ours = [{a.name: a.s.decode() for a in node.attribute} for node in graph.node if node.domain == "pyprod"]
    fused = [attributes["activation"] for attributes in ours]
    assert fused == ["none", "none", "gelu", "gelu_tanh", "relu", "none", "none"]
    assert [node.op_type for node in graph.node if node.domain != "pyprod"] == ["Gelu", "Mul"]
    assert len([t for t in graph.initializer if t.name.endswith("weight_packed")]) == 6
    want = convert(copy.deepcopy(model), dynamic_quantspec(model))(x)
    for read in onnx_native.readers(asked, tmp_path / "m.onnx").values():
        assert torch.allclose(read((x,)), want, rtol=1e-5, atol=1e-4 * float(want.abs().max()))


def test_smoothed_inputs_are_multiplied_once(tmp_path: Path) -> None:
    """By a node of their own: one for all layers that want the same of one value."""

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(self.a(x)) + self.b(x) + self.c(x)

    model, x = seeded(Three()), torch.randn(7, 6)
    smoothing = {"a": [1, 2, 4, 0.5, 3, 0.1], "b": [1, 2, 4, 0.5, 3, 0.1], "c": [7.0] * 6}
    asked = Order(model, (x[:2],), quantspec=dynamic_quantspec(model, smoothing=smoothing))
    onnx_native.write(asked, tmp_path / "m.onnx")
    assert [node.op_type for node in onnx_file.load(tmp_path / "m.onnx").graph.node].count("Mul") == 3
    assert asked.quantspec is not None
    want = convert(copy.deepcopy(model), asked.quantspec)(x)
    for read in onnx_native.readers(asked, tmp_path / "m.onnx").values():
        torch.testing.assert_close(read((x,)), want, rtol=1e-5, atol=1e-5)
    readers, reference = onnx_native.unrounded(asked, tmp_path / "m.onnx")
    for read in readers.values():
        torch.testing.assert_close(read((x,)), reference(x), rtol=1e-5, atol=1e-5)


def test_zero_points_are_said_by_the_node(tmp_path: Path) -> None:
    model, x = seeded(nn.Sequential(nn.Linear(6, 40), nn.Linear(40, 33))), torch.rand(20, 6)
    asked = Order(model, (x[:2],), quantspec=dynamic_quantspec(model, asymmetric=["0"]))
    onnx_native.write(asked, tmp_path / "m.onnx")
    nodes = [node for node in onnx_file.load(tmp_path / "m.onnx").graph.node if node.domain == "pyprod"]
    said = [{a.name: a.s.decode() for a in node.attribute}["quantization"] for node in nodes]
    assert said == ["asymmetric", "symmetric"]
    assert asked.quantspec is not None
    want = convert(copy.deepcopy(model), asked.quantspec)(x)
    assert not torch.equal(want, convert(copy.deepcopy(model), dynamic_quantspec(model))(x))
    for read in onnx_native.readers(asked, tmp_path / "m.onnx").values():
        torch.testing.assert_close(read((x,)), want, rtol=1e-5, atol=1e-5)
    readers, reference = onnx_native.unrounded(asked, tmp_path / "m.onnx")
    for read in readers.values():
        torch.testing.assert_close(read((x,)), reference(x), rtol=1e-5, atol=1e-5)


class Tied(nn.Module):
    """A head that shares the embedding's table, as language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids))


@pytest.mark.parametrize("shape", [(4, 5), (20,)])
def test_a_weight_that_an_embedding_shares(shape: tuple[int, ...], tmp_path: Path) -> None:
    model, ids = seeded(Tied()), torch.randint(0, 11, shape)
    asked = order(model, (ids[:2],))
    assert onnx_native.write(asked, tmp_path / "m.onnx").facts["layers"] == 1
    want = convert(copy.deepcopy(model), dynamic_quantspec(model))(ids)
    for read in onnx_native.readers(asked, tmp_path / "m.onnx").values():
        assert torch.allclose(read((ids,)), want, rtol=1e-5, atol=1e-4 * float(want.abs().max()))


def test_it_is_held_against_the_simulation_and_without_rounding_exactly(tmp_path: Path) -> None:
    model = seeded(Attention())
    asked = Order(model, tokens(2), (SEQUENCE,), quantspec=dynamic_quantspec(model))
    assert asked.quantspec is not None
    reference = simulation(copy.deepcopy(model), asked.quantspec)
    check = Check(tokens(), reference, shapes=6, tolerance=parity.INT8, twin=parity.jittered(reference))
    found = deliver(asked, "onnx_native", tmp_path / "m.onnx", check)
    assert found.facts["attention"] == "1 of 1 fused"
    by_reader = {p.reader: p for p in found.parity if p.rows == "random"}
    assert by_reader["onnxruntime"].tolerance >= parity.INT8
    assert by_reader["onnxruntime (activations in float)"].tolerance == parity.FLOAT32


@pytest.mark.parametrize("part", ["bias", "weight_scale", "weight_packed"])
def test_a_fault_that_rounding_would_hide_is_found(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(Layers())
    asked, x, right = order(model, (torch.randn(2, 6),)), (torch.randn(30, 6),), onnx_native.write
    assert asked.quantspec is not None

    def wrong(asked: Order, path: Path) -> object:
        written = right(asked, path)
        file = onnx.load(path)
        held = next(t for t in file.graph.initializer if t.name == f"relu.{part}")
        value = numpy_helper.to_array(held).copy()
        if part == "weight_packed":
            value[0, 1, 0, 0] += 1  # of 127
        else:
            value[0] *= 1.002
        held.CopyFrom(numpy_helper.from_array(value, held.name))
        onnx.save(file, path)
        return written

    monkeypatch.setattr(onnx_native, "write", wrong)
    check = Check(x, simulation(copy.deepcopy(model), asked.quantspec), tolerance=parity.INT8)
    with pytest.raises(Rejected) as caught:
        deliver(asked, "onnx_native", tmp_path / "m.onnx", check)
    assert any("activations in float" in problem for problem in caught.value.delivery.problems)


def test_what_it_cannot_hold_is_said() -> None:
    model, path = seeded(Convolutions()), Path("never written")
    with pytest.raises(Unavailable, match="the model has no QuantSpec"):
        onnx_native.write(Order(model, images(2)), path)
    static = static_quantspec(model, images(8))
    head = QuantSpec({"head": static.weights["head"]}, {"head": static.activations["head"]})
    with pytest.raises(Unavailable, match="head: Int8Linear needs 8-bit dynamic per_token activations"):
        onnx_native.write(Order(model, images(2), quantspec=head), path)
    dynamic = dynamic_quantspec(model)
    both = QuantSpec(dynamic.weights | {"conv": TensorQuant("per_channel")}, dynamic.activations)
    with pytest.raises(PyprodError, match="unknown linear layer of the file 'conv'"):
        onnx_native.write(Order(model, images(2), quantspec=both), path)


def test_fewer_bits_are_held_in_bytes(tmp_path: Path) -> None:
    model = seeded(Layers())
    asked = Order(model, (torch.randn(2, 6),), quantspec=dynamic_quantspec(model, bits=3))
    onnx_native.write(asked, tmp_path / "m.onnx")
    held = {t.name: numpy_helper.to_array(t) for t in onnx_file.load(tmp_path / "m.onnx").graph.initializer}
    assert np.abs(held["relu.weight_packed"][:, 1:]).max() == 3
