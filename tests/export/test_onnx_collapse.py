"""Static INT8 of every operator: a rounding that breaks the model is found, named and left out; nothing else is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyprod.export import onnx_file, onnx_static
from pyprod.export.onnx_collapse import _Switched, quantize_all, repair
from pyprod.export.onnx_runtimes import onnxruntime
from pyprod.export.order import Order, Reader
from pyprod.export.program import trace
from pyprod.types import PyprodError, Unavailable
from tests.export.toy import Convolutions, images, seeded


class Outlier(nn.Module):
    """Between its layers one channel is a thousand: a step that fits it leaves nothing of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


@pytest.fixture
def outlier() -> tuple[nn.Module, Tensor]:
    model = seeded(Outlier())
    assert isinstance(model, Outlier)
    with torch.no_grad():
        model.first.bias[0] = 1000.0
        model.second.weight[:, 0] = 0.0  # nobody reads it: all of the harm is done by rounding the others with it
    return model, torch.randn(64, 6)


def judge(model: nn.Module, x: Tensor):
    want = model(x).detach()

    def lost(reader: Reader) -> float:
        return float((reader((x,)) - want).norm() / want.norm())

    return lost


def test_the_guilty_rounding_is_named_and_left_out(outlier: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    model, x = outlier
    made = quantize_all(onnx_file.convert(trace(model, (x[:2],))).model, (x,))
    lost = judge(model, x)
    said: list[str] = []
    found = repair(made, (x[:8],), lost, 0.05, said.append)
    assert found.naive > 0.15
    assert found.loss <= 0.05
    assert found.guilty[0].step in ("linear", "relu")
    assert len(found.guilty) <= 3
    assert len(said) >= found.roundings
    onnx_file.save(found.model, tmp_path / "m.onnx")
    assert lost(onnxruntime(tmp_path / "m.onnx", 1)) == pytest.approx(found.loss, abs=0.01)
    operators = [Counter(node.op_type for node in m.graph.node)["QuantizeLinear"] for m in (made, found.model)]
    assert operators[0] - operators[1] == len(found.guilty)


def test_what_keeps_to_the_budget_is_left_as_it_is() -> None:
    model, (x,) = seeded(Convolutions()), images(40)
    made = quantize_all(onnx_file.convert(trace(model, (x[:2],))).model, (x,))
    found = repair(made, (x[:2],), judge(model, x), 0.5)
    assert found.guilty == ()
    assert found.loss == found.naive < 0.1
    assert found.model is made


def test_a_switched_file_is_the_one_or_the_other(outlier: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    model, x = outlier
    made = quantize_all(onnx_file.convert(trace(model, (x[:2],))).model, (x,))
    switched = _Switched(made)
    count = len(switched.pairs)
    assert count == 4
    onnx_file.save(made, tmp_path / "all.onnx")
    on = switched.reader(np.ones(count, bool))((x,))
    assert torch.allclose(on, onnxruntime(tmp_path / "all.onnx", 1, "none")((x,)), atol=1e-5)
    off = switched.without(range(count))
    onnx_file.save(off, tmp_path / "none.onnx")
    assert "QuantizeLinear" not in {node.op_type for node in off.graph.node}
    none = switched.reader(np.zeros(count, bool))((x,))
    assert torch.allclose(none, onnxruntime(tmp_path / "none.onnx", 1, "none")((x,)), atol=1e-5)
    assert judge(model, x)(lambda inputs: none) < 0.02  # weights are in integers still


def test_a_budget_that_weights_alone_exceed_is_no_file(outlier: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    model, x = outlier
    order = Order(model, (x[:2],), calibration=(x,), judge=judge(model, x), budget=1e-9)
    with pytest.raises(PyprodError, match="even with no activation rounded"):
        onnx_static.write(order, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_without_a_metric_nothing_can_be_judged(outlier: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no metric"):
        onnx_static.write(Order(outlier[0], (outlier[1],)), tmp_path / "m.onnx")
