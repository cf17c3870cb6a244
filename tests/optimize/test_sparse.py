"""Zeros: of least magnitude over the whole model, gradually, and two of each four."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pyprod.optimize import magnitude, semi_structured
from pyprod.train import Settings, fit
from pyprod.types import PyprodError
from pyprod.workloads._resnet import ResNet
from tests.train import toy


def test_the_smallest_of_the_whole_model_go() -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 7), nn.LayerNorm(7))
    with torch.no_grad():
        model[0].weight *= 10
    before = [module.weight.detach().clone() for module in model]
    magnitude.prune(model, 0.4)
    assert magnitude.sparsity(model) == pytest.approx(0.4, abs=0.002)
    kept = torch.cat([before[i][model[i].weight != 0].abs() for i in range(2)])
    gone = torch.cat([before[i][model[i].weight == 0].abs() for i in range(2)])
    assert gone.max() < kept.min()
    assert all(torch.equal(model[i].weight[model[i].weight != 0], before[i][model[i].weight != 0]) for i in range(2))
    assert torch.equal(model[2].weight, before[2])


def test_a_shared_weight_counts_once() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    magnitude.prune(model, 0.5)
    assert magnitude.sparsity(model) == 0.5


def test_nothing_is_asked_for() -> None:
    model = nn.Linear(3, 3)
    magnitude.prune(model, 0.0)
    assert magnitude.sparsity(model) == 0


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_senseless_shares(share: float) -> None:
    with pytest.raises(PyprodError, match="a share"):
        magnitude.prune(nn.Linear(3, 3), share)
    with pytest.raises(PyprodError, match="a share"):
        magnitude.Gradually(share)
    with pytest.raises(PyprodError, match="no linear layer"):
        magnitude.prune(nn.ReLU(), 0.5)


def test_gradually_while_training_further_costs_less_than_at_once() -> None:
    seen = []
    callback = magnitude.Gradually(0.8, until=0.5)

    def watch(model: nn.Module, done: float) -> None:
        seen.append(magnitude.sparsity(model))

    known = toy.data()
    trained = fit(toy.net, known, Settings(epochs=12)).model
    at_once = copy.deepcopy(trained)
    magnitude.prune(at_once, 0.8)
    made = fit(lambda: trained, known, Settings(epochs=8), callbacks=(callback, watch))
    assert seen == sorted(seen)
    assert 0.3 < seen[len(seen) // 8] < 0.7
    assert any(name.endswith("pruned") for name in made.model.state_dict())
    magnitude.finish(made.model)
    assert made.model.state_dict().keys() == toy.net().state_dict().keys()
    assert seen[len(seen) // 2] == seen[-1] == pytest.approx(0.8, abs=0.01)
    correct = float((made.model(known.inputs[0]).argmax(1) == known.targets).float().mean())
    assert correct > float((at_once(known.inputs[0]).argmax(1) == known.targets).float().mean())


def test_two_of_each_four_along_the_inputs() -> None:
    model = nn.Sequential(ResNet((8, 16)), nn.Linear(10, 3))
    before = model[0].blocks[0].conv2.weight.detach().clone()
    names = semi_structured.prune(model)
    assert "0.conv" not in names, "it has 9 inputs in all, of one channel"
    assert "1" not in names
    layers = dict(model.named_modules())
    assert all(semi_structured.holds(layers[name].weight) for name in names)
    after = model[0].blocks[0].conv2.weight
    fours = [before.permute(0, 2, 3, 1).reshape(-1, 4), after.detach().permute(0, 2, 3, 1).reshape(-1, 4)]
    for whole, half in zip(*fours, strict=True):  # the slow obvious twin
        largest = whole.abs().argsort(descending=True)[:2]
        assert torch.equal(half[largest], whole[largest])
        assert int((half != 0).sum()) <= 2


def test_size_of_two_in_four() -> None:
    model = nn.Linear(8, 3, bias=False)
    assert semi_structured.compressed_bytes(model) == 8 * 3 * 4
    semi_structured.prune(model)
    assert semi_structured.compressed_bytes(model) == 8 * 3 // 2 * 4 + 8 * 3 // 2 * 2 // 8
    with pytest.raises(PyprodError, match="multiple of 4"):
        semi_structured.prune(nn.Linear(7, 3))
