"""A student learns its teacher's outputs, and more than from the labels alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.optimize import layers
from pyprod.train import Settings, fit
from pyprod.train.distill import Distillation, attention_distance, feature_distance, objective, response
from pyprod.types import PyprodError
from pyprod.workloads import Training
from tests.train import toy


def plain_data() -> Training:
    known = toy.data()
    return Training(toy.plain, known.inputs, known.targets, known.loss, epochs=20, batch=16, learning_rate=0.02)


@torch.no_grad()
def agreement(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    return float((student(x).softmax(1) - teacher(x).softmax(1)).abs().sum(1).mean())


def test_a_student_becomes_like_its_teacher() -> None:
    """Labels are noise: all there is to learn is in the teacher's outputs."""
    teacher = fit(toy.net, toy.data(), Settings(epochs=10)).model
    noise = replace(plain_data(), targets=torch.randint(3, (203,)))
    taught = fit(toy.plain, noise, objective=objective(teacher, noise, Distillation(weight=1.0))).model
    alone = fit(toy.plain, noise).model
    x = torch.randn(500, 6)
    assert agreement(taught, teacher, x) < 0.5 * agreement(alone, teacher, x)


@pytest.mark.parametrize("kind", ["logits", "embedding"])
@pytest.mark.parametrize("width", [1, 5])
def test_where_they_agree_the_distance_is_nil(kind: str, width: int) -> None:
    x, y = torch.randn(2, 9, width)
    how = Distillation(kind=kind)  # type: ignore[arg-type]
    assert float(response(x, x, how)) == pytest.approx(0, abs=1e-6)
    assert float(response(x, y, how)) > 0.01


def test_the_response_is_hintons() -> None:
    x, y = torch.randn(2, 9, 5)
    soft = (y / 3).softmax(1)
    want = 9 * (soft * (soft.log() - (x / 3).log_softmax(1))).sum(1).mean()
    assert float(response(x, y, Distillation(temperature=3))) == pytest.approx(float(want), rel=1e-5)


def test_two_classes_in_one_column_are_as_in_two() -> None:
    x, y = torch.randn(2, 9, 1)
    both = [torch.cat((torch.zeros(9, 1), z), 1) for z in (x, y)]
    how = Distillation(temperature=2)
    assert float(response(x, y, how)) == pytest.approx(float(response(*both, how)), rel=1e-4)


def test_outputs_are_computed_once_and_kept(tmp_path: Path) -> None:
    calls = 0

    class Teacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = toy.plain()

        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            out: Tensor = self.body(x)
            return out

    teacher, known = Teacher(), plain_data()
    first = fit(toy.plain, known, Settings(epochs=2), objective=objective(teacher, known, Distillation(), tmp_path))
    assert calls == 13  # of 203 rows, 16 at a time
    again = fit(toy.plain, known, Settings(epochs=2), objective=objective(teacher, known, Distillation(), tmp_path))
    assert calls == 13
    assert torch.equal(first.model[0].weight, again.model[0].weight)  # type: ignore[index]
    objective(Teacher(), known, Distillation(), tmp_path)
    assert calls == 26, "another teacher has other outputs"


def test_augmented_rows_are_seen_by_the_teacher_too() -> None:
    seen: list[Tensor] = []

    class Teacher(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x)

    def augmented(x: Tensor) -> Tensor:
        return x + 1

    known = replace(plain_data(), augment=augmented)
    loss = objective(Teacher(6, 3), known, Distillation())
    student = toy.plain()
    inputs = (augmented(known.inputs[0][:4]),)
    loss(student, inputs, known.targets[:4], torch.arange(4))
    assert torch.equal(seen[0], inputs[0])


def test_features_and_attention_inside() -> None:
    teacher = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 3))
    student = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 3))
    images = torch.randn(64, 1, 4, 4)
    known = Training(lambda: student, (images,), torch.randint(3, (64,)), F.cross_entropy, 60, 16, 0.01)
    how = Distillation(features={"0": "0"}, attention={"1": "1"}, feature_weight=5.0)

    @torch.no_grad()
    def distances() -> list[float]:
        return [float(f(student[0](images), teacher[0](images))) for f in (feature_distance, attention_distance)]

    before = distances()
    fit(lambda: student, known, objective=objective(teacher, known, how))
    after = distances()
    assert after[0] < 0.3 * before[0]
    assert after[1] < 0.5 * before[1]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Distillation(features={"9": "0"}), "unknown module '9'"),
        (Distillation(features={"0": "x"}), "unknown module 'x'"),
        (Distillation(features={"0": "2"}), "compare their attention instead"),
    ],
)
def test_modules_that_do_not_fit(how: Distillation, words: str) -> None:
    known = plain_data()
    with pytest.raises(PyprodError, match=words):
        fit(toy.plain, known, Settings(epochs=1), objective=objective(toy.plain(), known, how))


def test_a_teacher_of_another_width() -> None:
    known = plain_data()
    with pytest.raises(PyprodError, match=r"the student gives \[16, 3\], its teacher \[16, 4\]"):
        fit(toy.plain, known, Settings(epochs=1), objective=objective(nn.Linear(6, 4), known, Distillation()))


@pytest.mark.parametrize("wrong", [{"weight": 1.5}, {"temperature": 0}, {"kind": "words"}])
def test_senseless_distillation(wrong: dict[str, object]) -> None:
    with pytest.raises(PyprodError):
        Distillation(**wrong)  # type: ignore[arg-type]


def test_a_student_of_some_layers() -> None:
    model = nn.ModuleDict({"stack": nn.ModuleList(nn.Linear(4, 4) for _ in range(5)), "head": nn.Linear(4, 2)})
    student = layers.subset(model, "stack", [0, 3])
    assert torch.equal(student["stack"][1].weight, model["stack"][3].weight)  # type: ignore[index]
    assert len(student["stack"]) == 2  # type: ignore[index]
    assert len(model["stack"]) == 5
    with torch.no_grad():
        student["stack"][0].weight.zero_()  # type: ignore[index]
    assert bool(model["stack"][0].weight.any())
    for stack, indexes, words in (
        ("stock", [0], "did you mean 'stack'"),
        ("stack", [5], "layers 0 to 4"),
        ("stack", [], "none"),
    ):
        with pytest.raises(PyprodError, match=words):
            layers.subset(model, stack, indexes)
