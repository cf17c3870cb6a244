"""What no input changes is computed once, when the model is fused, and kept as a file can hold it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from pyprod.fuse import fuse
from pyprod.nn import convert, dynamic_quantspec
from pyprod.types import QuantSpec


def test_what_no_input_changes_is_computed_once() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.kinds = nn.Embedding(50, 8), nn.Embedding(2, 8)
            self.shared = nn.Parameter(torch.randn(8))
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            places = self.table.weight[: x.shape[1]] + self.kinds.weight[1]
            wide = self.shared.expand(x.shape[1], 8) * 2  # larger than what it comes from
            return self.linear(x + places) + wide * self.shared

    model, x = Places().eval(), torch.randn(2, 5, 8)
    spec = dynamic_quantspec(model)
    fused = fuse(model, spec, (x,))
    assert fused.meta["rewritten"]["constants"] == 1
    assert {tuple(b.shape) for b in fused.buffers()} >= {(5, 8)}
    assert not {tuple(b.shape) for b in fused.buffers()} & {(50, 8), (2, 8)}
    assert torch.equal(fused(x), convert(copy.deepcopy(model), spec)(x))
    assert fuse(model, QuantSpec({}, {}), (x,)).meta["rewritten"]["constants"] == 0


def test_parts_of_a_table_are_constants_that_a_file_can_hold(tmp_path: Path) -> None:
    """Views would share the table's storage, of which none is the whole: safetensors refuses those."""

    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.randn(2, 5, 8))
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x * self.table[0] + self.table[1])
            return x

    model, x = Rotated().eval(), torch.randn(2, 5, 8)
    spec = dynamic_quantspec(model)
    fused = fuse(model, spec, (x,))
    assert fused.meta["rewritten"]["constants"] == 6
    assert torch.equal(fused(x), convert(copy.deepcopy(model), spec)(x))
    save_model(fused, str(tmp_path / "model.safetensors"))
    weights = load_file(tmp_path / "model.safetensors")
    assert sum(w.numel() for w in weights.values() if w.shape == (5, 8)) == 2 * 5 * 8, "each part once"


@torch.no_grad()
def test_repeated_positions_that_are_looked_up_are_computed_once() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions, self.up = nn.Embedding(50, 32), nn.Linear(32, 8)
            self.register_buffer("ids", torch.arange(50)[None])

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x * self.positions(self.ids[:, :9].expand(x.shape[0], -1)))

    model, x = First().eval(), torch.randn(3, 9, 32)
    module = fuse(model, dynamic_quantspec(model), (x,))
    assert module.meta["rewritten"]["constants"] == 1
    assert "aten.embedding" not in module.code
    assert (module(x) - model(x)).norm() < 0.03 * model(x).norm()
