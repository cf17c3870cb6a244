"""The step-by-step comparison: nothing to say of a right file, and of a wrong one where it is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pyprod.export import onnx_file
from pyprod.export.ledger import EXACT, FOLDED, difference, ledger
from pyprod.export.onnx_file import Converted
from pyprod.export.program import trace
from pyprod.types import PyprodError
from tests.export.toy import SEQUENCE, Attention, Convolutions, images, seeded, tokens


@pytest.fixture(scope="module")
def attention() -> Converted:
    return onnx_file.convert(trace(seeded(Attention()), tokens(2), (SEQUENCE,)))


@pytest.fixture(scope="module")
def convolutions() -> Converted:
    return onnx_file.convert(trace(seeded(Convolutions()), images(2)))


def broken(made: Converted, change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(made.model)
    change(copy)
    return copy


def node_of(model: onnx.ModelProto, kind: str, number: int = 0) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == kind][number]


def test_a_right_file_agrees_to_the_last_digits_of_float64(attention: Converted) -> None:
    found = ledger(attention.program, attention.model, tokens())
    assert not found.faults
    assert len(found.steps) > 15
    assert found.exact >= 9
    assert all(step.error < 1e-13 for step in found.steps if step.tolerance == EXACT)
    assert {step.tolerance for step in found.steps} == {0.0, EXACT, FOLDED}  # integers; the scale of attention


def test_a_folded_batch_norm_is_told_from_the_models_own_weights(convolutions: Converted) -> None:
    found = ledger(convolutions.program, convolutions.model, images())
    assert not found.faults
    assert (found.exact, found.folded) == (4, 2)  # second and head; the folded convolution and its bias
    assert found.steps[0].tolerance == FOLDED
    assert found.steps[-1].tolerance == EXACT


def test_the_program_stays_as_it_was(attention: Converted) -> None:
    ledger(attention.program, attention.model, tokens())
    assert all(t.dtype == torch.float32 for t in attention.program.state_dict.values())


def epsilon(model: onnx.ModelProto) -> None:
    next(a for a in node_of(model, "LayerNormalization").attribute if a.name == "epsilon").f = 1e-7


def no_bias(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Add" and n.output[0] == "linear")
    node.op_type = "Identity"
    del node.input[1:]


def other_gelu(model: onnx.ModelProto) -> None:
    node_of(model, "Gelu").attribute.append(onnx.helper.make_attribute("approximate", "tanh"))


def no_mask(model: onnx.ModelProto) -> None:
    softmax = node_of(model, "Softmax").input[0]
    node = next(n for n in model.graph.node if softmax in n.output)
    assert node.op_type == "Add"
    node.op_type = "Identity"
    del node.input[1:]


def other_perm(model: onnx.ModelProto) -> None:
    node_of(model, "Transpose").attribute[0].ints[:] = [0, 2, 3, 1]


def unread_row(model: onnx.ModelProto) -> None:
    table = next(t for t in model.graph.initializer if t.name == "embedding.weight")
    array = numpy_helper.to_array(table).copy()
    array[19] += 1e-6
    table.CopyFrom(numpy_helper.from_array(array, table.name))


@pytest.mark.parametrize(
    ("change", "step", "module"),
    [
        (epsilon, "layer_norm", "norm"),
        (no_bias, "linear", "query"),
        (other_gelu, "gelu", ""),
        (no_mask, "scaled_dot_product_attention", ""),
        (other_perm, "transpose", ""),
        (unread_row, "embedding", "embedding"),
    ],
)
def test_a_fault_is_found_where_it_was_made_and_nowhere_else(
    attention: Converted, change: Callable[[onnx.ModelProto], None], step: str, module: str
) -> None:
    ids, mask = tokens()
    ids = ids.clamp(max=18)  # nobody reads row 19
    found = ledger(attention.program, broken(attention, change), (ids, mask)).faults
    assert found[0].name == step
    assert found[0].module == module
    assert len(found) == 1


def test_two_faults_are_both_named(attention: Converted) -> None:
    def change(model: onnx.ModelProto) -> None:
        epsilon(model)
        other_gelu(model)

    found = ledger(attention.program, broken(attention, change), tokens()).faults
    assert [fault.name for fault in found] == ["layer_norm", "gelu"]


def test_a_weight_that_is_off_by_a_hundredth_of_itself_is_found(convolutions: Converted) -> None:
    def change(model: onnx.ModelProto) -> None:
        weight = next(t for t in model.graph.initializer if t.name == "head.weight")
        array = numpy_helper.to_array(weight).copy()
        array[3, 2] *= 1.01
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))

    found = ledger(convolutions.program, broken(convolutions, change), images()).faults
    assert [(fault.name, fault.module) for fault in found] == [("linear", "head")]


def test_a_weight_that_is_off_by_its_last_bit_is_found(attention: Converted) -> None:
    def change(model: onnx.ModelProto) -> None:
        weight = next(t for t in model.graph.initializer if t.name == "norm.weight")
        array = numpy_helper.to_array(weight).copy()
        array[1] = np.nextafter(array[1], np.float32(9))
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))

    found = ledger(attention.program, broken(attention, change), tokens()).faults
    assert [(fault.name, fault.problem) for fault in found] == [
        ("layer_norm", "the weight norm.weight is not the model's")
    ]


def test_a_file_of_another_model_is_refused(attention: Converted) -> None:
    other = onnx.helper.make_model(onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["b"])], "g", [], []))
    with pytest.raises(PyprodError, match="another"):
        ledger(attention.program, other, tokens())


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([1.0, np.nan], [1.0, np.nan], 0.0),
        ([1.0, np.inf], [1.0, -np.inf], np.inf),
        ([-np.inf], [-np.inf], 0.0),
        ([1, 2], [1, 2], 0.0),
        ([1, 2], [1, 3], np.inf),
    ],
)
def test_the_measure_of_a_step(got: list[float], want: list[float], error: float) -> None:
    assert difference(np.array(got), np.array(want)) == error


def test_what_a_program_says_of_float32_is_computed_in_float64() -> None:
    class Casts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x > 0).to(torch.float32) * x.float() + torch.full((4,), 0.1, dtype=torch.float32)

    x = (torch.randn(3, 4),)
    made = onnx_file.convert(trace(Casts(), x))
    found = ledger(made.program, made.model, x)
    assert not found.faults
