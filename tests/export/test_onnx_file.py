"""Conversion to ONNX: what is left out of the exporter's own rewriting."""

import pytest
import torch
from onnxscript.rewriter.rules.common import slice_split_rule
from torch import nn

from pyprod.export import onnx_file
from pyprod.export.program import trace
from pyprod.export.quiet import quiet


class Halves(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :4] * x[:, 4:]


def test_one_rule_is_not_tried_and_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no other rule is seen either, onnxscript has changed and `_no_slice_split` does nothing any more."""
    kind, tried = type(slice_split_rule), set()
    original = kind.try_rewrite

    def watch(rule: object, *args: object, **options: object) -> object:
        tried.add(rule is slice_split_rule)
        return original(rule, *args, **options)

    monkeypatch.setattr(kind, "try_rewrite", watch)
    x = torch.randn(2, 8)
    made = onnx_file.convert(trace(Halves().eval(), (x,))).model
    assert tried == {False}
    assert [node.op_type for node in made.graph.node] == ["Slice", "Slice", "Mul"]
    with quiet():
        torch.onnx.export(Halves().eval(), (x,), dynamo=True, verbose=False)
    assert tried == {False, True}
