"""The training loop: it learns, ends in the same bits after a kill, and stops where going on makes no sense."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pyprod.train import Diverged, Settings, fit
from pyprod.types import PyprodError
from tests.train import toy

CHECKPOINT = "checkpoint.safetensors"


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def share_correct(model: nn.Module) -> float:
    known = toy.data()
    return float((model(known.inputs[0]).argmax(1) == known.targets).float().mean())


def test_it_learns_and_leaves_torch_as_it_was() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    made = fit(toy.net, toy.data())
    assert share_correct(made.model) > 0.85
    assert not made.model.training
    assert made.steps == 4 * (203 // 16)
    assert made.history[-1].loss < made.history[0].loss / 2
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (threads, False)
    assert torch.equal(torch.get_rng_state(), state)


def test_same_seed_same_bits() -> None:
    first, second, other = (fit(toy.net, toy.data(), Settings(seed=s)).model.state_dict() for s in (3, 3, 4))
    assert equal(first, second)
    assert not equal(first, other)


def test_killed_again_and_again_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    """kill -9 after steps of all kinds: before the first checkpoint, on one, between two, at an epoch's end."""
    want = toy.run(tmp_path / "whole")
    kills = [1, 3, 11, random.randrange(2, 20), random.randrange(2, 12)]
    for steps in kills:
        command = [sys.executable, "-m", "tests.train.toy", str(tmp_path / "killed"), str(steps)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert equal(toy.run(tmp_path / "killed"), want)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = fit(toy.net, toy.data(), folder=tmp_path)
    again = fit(toy.net, toy.data(), folder=tmp_path)
    assert again.resumed_at == again.steps == first.steps
    assert equal(again.model.state_dict(), first.model.state_dict())
    assert again.history == first.history or math.isnan(first.history[0].held_out)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_interrupted_it_goes_on(tmp_path: Path, precision: str) -> None:
    """Ctrl-C between two steps; float16 has a loss scale to remember."""
    settings = Settings(precision=precision, checkpoint_steps=5)  # type: ignore[arg-type]

    def interrupt(model: nn.Module, done: float) -> None:
        if done > 0.45:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(toy.net, toy.data(), settings, folder=tmp_path, callbacks=(interrupt,))
    went_on = fit(toy.net, toy.data(), settings, folder=tmp_path)
    assert went_on.resumed_at == 20
    assert equal(went_on.model.state_dict(), fit(toy.net, toy.data(), settings).model.state_dict())


def test_accumulated_gradients_are_the_whole_batchs() -> None:
    known = replace(toy.data(), augment=lambda first: first)
    whole, parts = (fit(toy.plain, known, Settings(epochs=2, accumulate=parts)).model.state_dict() for parts in (1, 4))
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-5)


def test_patience_gives_the_best_weights() -> None:
    """Labels that mean nothing: from some epoch on the held-out loss only rises."""
    known = toy.data()
    noise = replace(known, targets=torch.randint(3, known.targets.shape), learning_rate=0.05, epochs=60)
    made = fit(toy.plain, noise, Settings(holdout=0.3, patience=4, schedule="constant"))
    assert made.stopped_early
    best = min(range(len(made.history)), key=lambda i: made.history[i].held_out)
    assert len(made.history) == best + 1 + 4
    again = fit(toy.plain, noise, Settings(epochs=best + 1, holdout=0.3, schedule="constant"))
    assert equal(again.model.state_dict(), made.model.state_dict())


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    known = toy.data()
    seen = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        return known.loss(outputs, targets) * (math.nan if seen == 8 else 1.0)

    settings = Settings(checkpoint_steps=3)
    with pytest.raises(Diverged, match=r"loss is nan at step 8 of 48: .*checkpoint\.safetensors is of before"):
        fit(toy.net, replace(known, loss=loss), settings, folder=tmp_path)
    went_on = fit(toy.net, known, settings, folder=tmp_path)
    assert went_on.resumed_at == 6
    assert equal(went_on.model.state_dict(), fit(toy.net, known, settings).model.state_dict())


class Overflowing(torch.autograd.Function):
    """The identity, whose gradient is infinite when `infinite` says so."""

    @staticmethod
    def forward(ctx, x, infinite):  # type: ignore[no-untyped-def]
        ctx.infinite = infinite
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient * (math.inf if ctx.infinite else 1.0), None


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_infinite_gradients_are_skipped_and_counted(precision: str) -> None:
    bad = set(random.sample(range(48), 7))
    before: list[dict[str, Tensor]] = []
    seen = 0

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = toy.plain()

        def forward(self, x: Tensor) -> Tensor:
            nonlocal seen
            infinite = self.training and seen in bad
            seen += self.training
            out: Tensor = Overflowing.apply(self.body(x), infinite)
            return out

    def watch(model: nn.Module, done: float) -> None:
        state = {key: value.clone() for key, value in model.state_dict().items()}
        changed = not before or not equal(before[-1], state)
        before.append(state)
        if done:
            assert changed == (seen - 1 not in bad), "a step was taken with an infinite gradient, or a good one was not"

    made = fit(Net, toy.data(), Settings(precision=precision), callbacks=(watch,))  # type: ignore[arg-type]
    assert made.skipped == len(bad)
    assert made.history[-1].skipped == len(bad)
    assert made.history[-1].scale == (2.0**16 / 2 ** len(bad) if precision == "float16" else 1.0)


def test_gradients_that_stay_infinite_end_it() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        scaled: Tensor = Overflowing.apply(outputs, True)
        return scaled.mean()

    with pytest.raises(Diverged, match="no gradient was finite in 20 steps"):
        fit(toy.net, replace(toy.data(), loss=loss))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_learns_as_well(precision: str) -> None:
    seen = set()

    class Net(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = super().forward(x)
            seen.add(out.dtype)
            return out

    made = fit(lambda: Net(*toy.net()), toy.data(), Settings(precision=precision, epochs=8))  # type: ignore[arg-type]
    assert share_correct(made.model) > 0.9
    assert getattr(torch, precision) in seen
    assert all(p.dtype == torch.float32 for p in made.model.parameters())


def test_an_objective_takes_the_place_of_the_loss() -> None:
    known, rows_seen = toy.data(), []

    def objective(model: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor, rows: Tensor) -> Tensor:
        assert torch.equal(known.targets[rows], targets)
        rows_seen.append(rows)
        return model(*inputs).square().mean()

    made = fit(toy.plain, known, Settings(epochs=6), objective=objective)
    assert made.history[-1].loss < 0.05
    assert len(torch.cat(rows_seen[:12]).unique()) == 12 * 16, "an epoch has each row once"


def test_a_model_can_be_trained_further() -> None:
    first = fit(toy.net, toy.data(), Settings(epochs=2)).model
    before = {key: value.clone() for key, value in first.state_dict().items()}
    assert not equal(fit(lambda: first, toy.data(), Settings(epochs=1)).model.state_dict(), before)


def test_frozen_parameters_stay() -> None:
    model = toy.plain()
    model[0].requires_grad_(False)
    weight = model[0].weight.clone()
    assert torch.equal(fit(lambda: model, toy.data(), Settings(epochs=1)).model[0].weight, weight)  # type: ignore[index]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    fit(toy.net, toy.data(), Settings(epochs=1), folder=tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[: random.randrange(1, path.stat().st_size)])
    with pytest.raises(PyprodError, match=r"checkpoint\.safetensors is damaged .*delete it"):
        fit(toy.net, toy.data(), Settings(epochs=1), folder=tmp_path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    fit(toy.net, toy.data(), Settings(epochs=1), folder=tmp_path)
    with pytest.raises(PyprodError, match="of other settings, data or model"):
        fit(toy.net, toy.data(), Settings(epochs=2), folder=tmp_path)
    (tmp_path / "other").mkdir()
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other" / CHECKPOINT)
    with pytest.raises(PyprodError, match="no checkpoint of a training run"):
        fit(toy.net, toy.data(), folder=tmp_path / "other")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PyprodError, match="can't write"):
        fit(toy.net, toy.data(), Settings(epochs=1), folder=tmp_path / "file")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "above 0"),
        ({"learning_rate": math.nan}, "above 0"),
        ({"precision": "int8"}, "no precision"),
        ({"schedule": "cosine"}, "no schedule"),
        ({"holdout": 1.0}, "holdout"),
        ({"patience": 3}, "needs one"),
        ({"batch": 204}, "less than a batch"),
        ({"accumulate": 3}, "equal parts"),
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(PyprodError, match=words):
        fit(toy.net, toy.data(), Settings(**wrong))  # type: ignore[arg-type]
