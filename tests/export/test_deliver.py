"""A file gets its name only once it has been held against the model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from pyprod.export import onnx as onnx_format
from pyprod.export import onnx_file
from pyprod.export.deliver import Check, Rejected, deliver, examine, formats
from pyprod.export.order import Order, Written
from pyprod.export.program import Unexportable
from pyprod.types import PyprodError
from tests.export.toy import SEQUENCE, Attention, Convolutions, images, seeded, tokens


def order(model: nn.Module | None = None) -> Order:
    return Order(model or seeded(Attention()), tokens(2), (SEQUENCE,), metadata={"labels": "a, b"})


def check(model: nn.Module) -> Check:
    return Check(tokens(), model, shapes=6)


@pytest.mark.parametrize("name", ["onnx", "onnx_fused", "torchscript", "safetensors"])
def test_each_format_holds_the_model_at_any_size(name: str, tmp_path: Path) -> None:
    asked = order()
    path = tmp_path / "sub" / "model.any"
    found = deliver(asked, name, path, check(asked.model))
    assert not found.problems
    assert {p.rows for p in found.parity} == {"real", "random"}
    assert found.facts["open"] == ["batch", "sequence"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.any", "model.any.parity.json"]
    report = json.loads(path.with_name("model.any.parity.json").read_text())
    assert report["metadata"] == {"labels": "a, b"}
    assert report["problems"] == []
    assert (report["ledger"] is not None) == (name == "onnx")


def test_aotinductor_holds_the_model_at_any_size(tmp_path: Path) -> None:
    asked = order()
    found = deliver(asked, "aotinductor", tmp_path / "model.pt2", check(asked.model))
    assert not found.problems
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt2", "model.pt2.parity.json"]


def test_an_onnx_file_says_what_it_is(tmp_path: Path) -> None:
    asked = order()
    deliver(asked, "onnx", tmp_path / "model.onnx", check(asked.model))
    model = onnx.load(tmp_path / "model.onnx")
    assert {p.key: p.value for p in model.metadata_props} == {"labels": "a, b"}
    assert model.opset_import[0].version == 20
    shapes = [[d.dim_param for d in i.type.tensor_type.shape.dim] for i in model.graph.input]
    assert shapes == [["batch", "sequence"]] * 2


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)

    model, x = seeded(Wide()), (torch.randn(5, 64),)
    deliver(Order(model, x, external_data=True), "onnx", tmp_path / "m.onnx", Check(x, model, shapes=2))
    assert (tmp_path / "m.onnx.data").stat().st_size >= 64 * 64 * 4
    assert (tmp_path / "m.onnx.data").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "m.onnx").stat().st_size < 4096
    assert len(onnx_file.load(tmp_path / "m.onnx").graph.initializer) == 2
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(PyprodError, match="no whole ONNX file"):
        onnx_file.load(tmp_path / "m.onnx")


def test_above_two_gigabytes_they_are_so_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "WEIGHTS_LIMIT", 1000)
    model, x = seeded(nn.Linear(32, 64)), (torch.randn(5, 32),)
    deliver(Order(model, x), "onnx", tmp_path / "m.onnx", Check(x, model, shapes=2))
    assert (tmp_path / "m.onnx.data").exists()


@pytest.mark.parametrize("accepted", [True, False])  # by ONNX Runtime, which knows no such attribute of Relu
def test_a_wrong_file_is_kept_aside_and_the_one_before_stays(
    accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("the one before")
    right = onnx_format.write

    def wrong(asked: Order, target: Path) -> Written:
        written = right(asked, target)
        model = onnx.load(target)
        gelu = next(n for n in model.graph.node if n.op_type == "Gelu")
        gelu.op_type = "Relu"
        if accepted:
            del gelu.attribute[:]
        onnx.save(model, target)
        return written

    monkeypatch.setattr(onnx_format, "write", wrong)
    asked = order()
    with pytest.raises(Rejected, match="step gelu") as caught:
        deliver(asked, "onnx", path, check(asked.model))
    assert path.read_text() == "the one before"
    names = ["model.onnx", "model.onnx.parity.json", "model.onnx.rejected"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert len(caught.value.delivery.problems) > 1  # outputs, too
    if accepted:
        found = examine(asked, tmp_path / "model.onnx.rejected", check(asked.model))
        assert found.problems == caught.value.delivery.problems
    else:
        with pytest.raises(PyprodError, match="no whole ONNX file"):
            examine(asked, tmp_path / "model.onnx.rejected", check(asked.model))


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    class Decides(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * 2.0 if x.sum() > 0 else x.float()

    with pytest.raises(Unexportable, match="can't trace the model"):
        deliver(order(Decides()), "onnx", tmp_path / "model.onnx", check(nn.Identity()))
    with pytest.raises(PyprodError, match="opset 9"):
        deliver(
            Order(seeded(Convolutions()), images(2), opset=9), "onnx", tmp_path / "m", Check(images(), nn.Identity())
        )
    with pytest.raises(PyprodError, match="did you mean 'onnx'"):
        deliver(order(), "onxx", tmp_path / "model.onnx", check(nn.Identity()))
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_swept_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    asked = order()
    gone, alive = tmp_path / ".4194303-m.pt", tmp_path / f".{os.getppid()}-m.pt"
    for folder in (gone, alive):
        folder.mkdir()
        (folder / "m.pt").write_bytes(b"half")
    deliver(asked, "torchscript", tmp_path / "m.pt", check(asked.model))
    assert not gone.exists()
    assert alive.exists()


@pytest.mark.parametrize("decides", [True, False])
def test_torchscript_is_scripted_where_it_can_be(decides: bool, tmp_path: Path) -> None:
    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2.0 if bool(x.sum() > 0) else -x

    class Unscriptable(nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return inputs[0] * 2.0

    model = (Decides() if decides else Unscriptable()).eval()
    x = torch.cat([torch.ones(3, 4), -torch.ones(3, 4)])
    check = Check((x,), model, shapes=0)
    found = deliver(Order(model, (x[:2],)), "torchscript", tmp_path / "m.pt", check)
    assert found.facts["by"] == ("torch.jit.script" if decides else "torch.jit.trace")
    assert decides or "can't take the model" in found.facts["not scripted"]


def test_a_size_that_the_model_fixes_is_said_to_be(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(7, 3)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.linear((ids * mask).float())

    model = seeded(Fixed())
    found = deliver(Order(model, tokens(2), (SEQUENCE,)), "onnx", tmp_path / "m.onnx", Check(tokens(), model, shapes=4))
    assert found.facts["open"] == ["batch"]
    assert "sequence" in found.facts["fixed"]


def test_a_format_is_a_file_that_writes_one() -> None:
    assert formats().keys() == {
        "aotinductor",
        "onnx",
        "onnx_fused",
        "onnx_native",
        "onnx_qdq",
        "onnx_static",
        "safetensors",
        "torchscript",
    }
