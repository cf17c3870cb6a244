"""Recipe files, the steps they name, what is kept of them, and models of other shapes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod import backends, recipes, workloads
from pyprod.optimize import layers, structured
from pyprod.recipes import Step, shapes
from pyprod.types import PyprodError
from pyprod.workloads import Training, Workload
from pyprod.workloads._resnet import ResNet
from pyprod.workloads._score import correct

HERE = "tests/recipes/test_recipes.py:tiny"
CALLS: list[str] = []


def tiny() -> Workload:
    """A small network on images of which one half is brighter."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(96, 1, 8, 8, generator=generator)
    labels = (images[:, 0, :, :4].mean((1, 2)) > images[:, 0, :, 4:].mean((1, 2))).long()

    def model() -> nn.Module:
        torch.manual_seed(2)
        return ResNet((8, 16), classes=2).eval()

    return Workload(
        model,
        (images[:32],),
        (images[32:48],),
        lambda logits: correct(logits, labels[:32]),
        training=lambda: Training(model, (images[48:],), labels[48:], F.cross_entropy, 2, 16, 0.01),
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(workloads, "cache_dir", lambda: tmp_path / "cache")
    CALLS.clear()
    return tmp_path / "cache"  # type: ignore[return-value]


def said(what: str) -> None:
    CALLS.append(what)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


GOOD = """
workload = "digits"
[recipes.half]
steps = [{ step = "structured", macs = 0.5 }, { step = "finetune", epochs = 2, distill = { temperature = 4 } }]
[bench]
batch = [1, 8]
[require]
accuracy_drop = "0.5%"
p99_ms = 10
[prefer]
by = "size"
"""


def test_a_recipe_file(tmp_path: Path) -> None:
    file = recipes.read(write(tmp_path / "r.toml", GOOD))
    assert file.workload == "digits"
    assert list(file.recipes) == ["base", "half"]
    assert file.recipes["half"][0] == Step("structured", {"macs": 0.5})
    assert (file.bench.batch, file.demands, file.prefer) == ([1, 8], {"accuracy_drop": 0.005, "p99_ms": 10}, "size")


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_can_be_read_and_name_steps_that_exist(path: Path) -> None:
    file = recipes.read(path)
    assert file.workload == path.stem
    assert file.workload in workloads.known()
    for steps in file.recipes.values():
        assert len(recipes.check(steps)) == len(steps)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workload = ", "r.toml: Invalid value"),
        ("", "names no workload"),
        ('workload = "digits"\nrecipe = 1', "unknown key 'recipe'; did you mean 'recipes'"),
        ('workload = "digits"\n[recipes.base]\nsteps = []', "can't be named 'base'"),
        ('workload = "digits"\n[recipes.half]\nstep = 1', r"\[recipes.half\] needs steps"),
        ('workload = "digits"\n[bench]\nbatches = [1]', r"unknown key of \[bench\] 'batches'; did you mean 'batch'"),
        ('workload = "digits"\n[bench]\nbatch = 8', r"batch is a list of numbers from 1, such as \[1, 8\], not 8"),
        ('workload = "digits"\n[bench]\nthreads = [0]', "threads is a list of numbers"),
        ('workload = "digits"\n[bench]\nbackends = "eager"', "backends is a list of names"),
        ('workload = "digits"\n[bench]\ndevice = "tpu"', "device cpu or cuda"),
        ('workload = "digits"\n[require]\np98_ms = 1', "did you mean 'p99_ms'"),
        ('workload = "digits"\n[require]\np99_ms = "fast"', "must be a number"),
        ('workload = "digits"\n[require]\naccuracy_drop = "some"', "a share such as"),
        ('workload = "digits"\n[prefer]\nby = "luck"', "unknown preference 'luck'"),
    ],
)
def test_a_wrong_file_says_where(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PyprodError, match=words):
        recipes.read(write(tmp_path / "r.toml", text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PyprodError, match=r"can't read .*none\.toml"):
        recipes.read(tmp_path / "none.toml")


STEPS = [Step("structured", {"macs": 0.5, "round_to": 2}), Step("finetune", {"epochs": 1})]


def test_each_step_is_done_once() -> None:
    first = recipes.make(HERE, "half", STEPS, said)
    assert CALLS == ["half: structured", "half: finetune"]
    assert recipes.make(HERE, "half", STEPS, said) == first
    assert len(CALLS) == 2
    other = recipes.make(HERE, "longer", [STEPS[0], Step("finetune", {"epochs": 2})], said)
    assert CALLS[2:] == ["longer: finetune"], "the first step is the same"
    assert other != first


def test_what_was_made_is_given_back() -> None:
    recipes.make(HERE, "half", STEPS, said)
    workload = workloads.load(HERE)
    made = recipes.load(HERE, "half", workload)
    example = workload.example(2)
    assert structured.count(made.model, example) <= 0.5 * structured.count(workload.model(), example)
    assert "of the multiply-accumulates" in made.notes[0]
    assert made.notes[1] == "trained further for 1 epochs"
    assert not made.model.training
    again = recipes.load(HERE, "half", workload).model
    assert torch.equal(made.model(*example), again(*example))


def test_killed_it_goes_on_and_makes_the_same(cache: Path) -> None:
    steps = [Step("finetune", {"epochs": 12, "checkpoint_steps": 1})]
    program = (
        "import sys; from pathlib import Path; from pyprod import recipes, workloads; from pyprod.recipes import Step\n"
        "workloads.cache_dir = lambda: Path(sys.argv[1])\n"
        f"print(recipes.make({HERE!r}, 'long', [Step('finetune', {dict(steps[0].arguments)!r})], print), flush=True)"
    )
    command = [sys.executable, "-c", program, str(cache)]
    scratch = cache / "recipes" / "steps"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not list(scratch.glob("*.scratch/checkpoint.safetensors")):
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    digest = recipes.make(HERE, "long", steps, said)
    went_on = recipes.load(HERE, "long", workloads.load(HERE)).model.state_dict()
    assert not list(scratch.glob("*.scratch"))
    shutil.rmtree(cache)
    assert recipes.make(HERE, "long", steps, said) == digest
    whole = recipes.load(HERE, "long", workloads.load(HERE)).model.state_dict()
    assert all(torch.equal(went_on[key], whole[key]) for key in whole)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step("structural", {}), "unknown step 'structural'; did you mean 'structured'"),
        (Step("distill", {}), "unknown step 'distill'"),
        (Step("structured", {"mac": 0.5}), r"step structured: .*it takes: macs, round_to = 8, keep"),
        (Step("structured", {"macs": 7}), "step structured: .*between 0 and 1"),
        (Step("finetune", {"epoch": 1}), "step finetune: unknown argument of finetune 'epoch'; did you mean 'epochs'"),
        (Step("finetune", {"sparsity": 0.5, "keep_zeros": True}), "leave keep_zeros out"),
    ],
)
def test_wrong_steps(step: Step, words: str) -> None:
    with pytest.raises(PyprodError, match=words):
        recipes.make(HERE, "wrong", [step], said)


def test_weights_are_quantized_last() -> None:
    with pytest.raises(PyprodError, match="step smooth changes weights whose scales mixed has found: put it before"):
        recipes.check([Step("mixed", {}), Step("smooth", {})])
    recipes.check([Step("smooth", {}), Step("ptq", {}), Step("qat", {})])
    with pytest.raises(PyprodError, match="step finetune changes weights whose scales ptq has found: put it before"):
        recipes.check([Step("structured", {"macs": 0.5}), Step("ptq", {}), Step("finetune", {"epochs": 1})])


def test_biases_that_a_step_added_are_kept() -> None:
    """Convolutions before a batch norm have none; correcting them gives them one."""
    recipes.make(HERE, "corrected", [Step("ptq", {"scheme": "static", "weight_bits": 4, "correct_bias": True})], said)
    made, plain = recipes.load(HERE, "corrected", workloads.load(HERE)), workloads.load(HERE).model()
    added = made.model.state_dict().keys() - plain.state_dict().keys()
    assert added
    assert all(name.endswith(".bias") for name in added)
    with torch.inference_mode():
        rows = workloads.load(HERE).example(4)
        assert not torch.equal(made.model(*rows), plain(*rows))


def test_a_quantspec_is_kept_and_lowered() -> None:
    """By the static scheme all of this network runs in integers, on the scales of the recipe."""
    recipes.make(HERE, "static", [Step("ptq", {"scheme": "static", "observer": "mse"})], said)
    made = recipes.load(HERE, "static", workloads.load(HERE))
    assert made.quantspec is not None
    assert set(made.quantspec.weights) == {
        n for n, m in made.model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    }
    example = workloads.load(HERE).example(4)
    cache = workloads.cache_dir()
    cache.mkdir(exist_ok=True)
    workdir = cache / "work"
    workdir.mkdir()
    module, variant = backends.split("native.int8")
    request = backends.Request(made.model, example, example, made.quantspec, variant, "cpu", 1, workdir, cache)
    runner = module.prepare(request)
    assert "6 convolutions and 1 linear layer and what lies between them in int8, in one call" in runner.notes[0]
    assert "calibrated on" not in runner.notes[0]
    with torch.inference_mode():
        want = workloads.load(HERE).model()(*example)
    error = (runner.run(example) - want).norm() / want.norm()
    assert error < 0.2


def test_a_workload_that_gives_one_module_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's `(module, example)` does. The teacher is the model as it was, not the student."""
    same = tiny().model()
    monkeypatch.setattr(workloads, "load", lambda name: replace(tiny(), model=lambda: same))
    before = {key: value.clone() for key, value in same.state_dict().items()}
    steps = [Step("magnitude", {"sparsity": 0.5}), Step("finetune", {"epochs": 1, "distill": {"weight": 1.0}})]
    recipes.make(HERE, "taught", steps, said)
    recipes.make(HERE, "further", [*steps, Step("finetune", {"epochs": 1})], said)
    made = recipes.load(HERE, "further", workloads.load(HERE))
    assert not torch.equal(made.model.get_parameter("conv.weight"), before["conv.weight"])
    assert all(torch.equal(value, before[key]) for key, value in same.state_dict().items())
    assert all(p.requires_grad for p in same.parameters())
    assert not any(p.grad is not None for p in same.parameters())


def test_other_rows_are_another_model(tmp_path: Path) -> None:
    """What a step sees is part of the digest: here the file that makes the rows."""
    text = Path("tests/tiny.py").read_text()
    digests = set()
    for seed in (0, 1):
        path = tmp_path / "w.py"
        path.write_text(text.replace("manual_seed(0)", f"manual_seed({seed})"))
        digests.add(recipes.make(f"{path}:build", "x", [Step("ptq", {})], said))
    assert len(digests) == 2


def test_a_damaged_result_is_named(cache: Path) -> None:
    digest = recipes.make(HERE, "half", STEPS, said)
    path = cache / "recipes" / "steps" / digest / "model.safetensors"
    path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)])
    with pytest.raises(PyprodError, match=r"is damaged .*delete it, and it is made again"):
        recipes.load(HERE, "half", workloads.load(HERE))


def test_a_recipe_that_was_not_made() -> None:
    recipes.make(HERE, "half", STEPS, said)
    with pytest.raises(PyprodError, match=r"unknown recipe 'haf'; did you mean 'half'\?; pyprod ship"):
        recipes.load(HERE, "haf", workloads.load(HERE))


class Deep(nn.Module):
    """A stack, layers of all kinds that can be resized, and some that can't."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.stack = nn.ModuleList(nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 8)) for _ in range(4))
        self.norm = nn.LayerNorm(8)
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for layer in self.stack:
            x = self.norm(x + layer(x))
        out: Tensor = self.depthwise(x.transpose(1, 2))
        return out


def test_shortened_and_narrowed_it_computes_the_same() -> None:
    ids = torch.randint(20, (2, 7))
    small = layers.subset(Deep(), "stack", [1, 3]).eval()
    for layer in small.stack:  # type: ignore[union-attr]
        layer[0], layer[2] = nn.Linear(8, 5), nn.Linear(5, 8)
    again = shapes.restore(Deep(), small.state_dict())
    assert torch.equal(again(ids), small(ids))
    assert again.stack[0][0].out_features == 5  # type: ignore[index]
    assert repr(again) == repr(small)


def test_resized_by_pruning_it_computes_the_same() -> None:
    model, images = ResNet((8, 16)).eval(), torch.randn(3, 1, 8, 8)
    small = structured.prune(model, (images,), 0.5, round_to=2).model.eval()
    again = shapes.restore(ResNet((8, 16)), small.state_dict())
    assert torch.equal(again(images), small(images))
    assert repr(again) == repr(small)


def test_a_state_of_something_else() -> None:
    with pytest.raises(PyprodError, match="not of this workload"):
        shapes.restore(Deep(), ResNet((8, 16)).state_dict())
    recurrent = nn.LSTM(4, 4)
    with pytest.raises(PyprodError, match=r"can't be resized|not of this workload"):
        shapes.restore(recurrent, nn.LSTM(4, 8).state_dict())


def test_names_are_files_of_their_own(cache: Path) -> None:
    recipes.make(HERE, "half", STEPS, said)
    (path,) = (cache / "recipes" / "named").glob("*/half.json")
    assert json.loads(path.read_text())["steps"][0] == {"step": "structured", "macs": 0.5, "round_to": 2}
