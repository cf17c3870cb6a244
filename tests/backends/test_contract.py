"""What every backend that is here must do, whatever its file: a new file is tested with no edit.

Building is the slow part, so each variant is built once per model and batch, and all is asked of that one runner.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyprod import backends
from pyprod.backends import Request, Runner
from pyprod.backends._runner import RELU_HIDES_NAN
from pyprod.types import PyprodError, Unavailable
from tests.backends.tiny_models import build, inputs

#: Relative L2 error against float32 eager. docs/backends.md derives them; int8 is tighter here than there, since two
#: blocks of random weights have neither the encoder's depth nor its outliers: 1.3% x sqrt(12) layers = 4.5%.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 4e-3, "int8": 6e-2}

#: What a variant says of itself that it can't take: torch.jit.script compiles a part of Python only.
UNSUITED = {("torchscript.scripted", "transformer")}

HERE = [name for name, variant, why in backends.known("cpu") if variant and not why]


def models(backend: str) -> list[str]:
    """What to try it on; a backend that compiles takes seconds for anything."""
    module, variant = backends.split(backend)
    if module.VARIANTS[variant].attention:
        return ["transformer"]
    tried = ["mlp"] if hasattr(module, "no_compiler") else ["transformer", "cnn"]
    return [model for model in tried if (backend, model) not in UNSUITED]


def prepare(request_for: Callable[..., Request], backend: str, model: str, batch: int) -> Runner:
    module, variant = backends.split(backend)
    try:
        return module.prepare(request_for(model, variant, batch))
    except Unavailable as why:
        pytest.fail(f"{backend} on {model}: {why}")


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


def reference(model: str, batch: tuple[Tensor, ...]) -> Tensor:
    with torch.inference_mode():
        return build(model)(*batch)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("backend", "model"), [(backend, model) for backend in HERE for model in models(backend)])
def test_runner(request_for: Callable[..., Request], backend: str, model: str, batch: int) -> None:
    module, variant = backends.split(backend)
    numerics = module.VARIANTS[variant].numerics
    runner = prepare(request_for, backend, model, batch)
    assert runner.artifact_bytes > 0
    for seed in (11, 12):  # rebinding reads the new inputs
        fresh = inputs(model, batch, seed)
        call = runner.bind(fresh)
        first = runner.tensor(call()).clone()
        assert first.dtype == torch.float32
        assert first.device.type == "cpu"
        assert relative_error(first, reference(model, fresh)) < TOLERANCE[numerics]
        assert torch.equal(runner.tensor(call()), first)
    if model != "transformer" and numerics != "int8":
        poisoned = inputs(model, batch, 13)
        poisoned[0][0, ..., 0] = float("nan")
        assert runner.run(poisoned)[0].isnan().any() or RELU_HIDES_NAN in runner.notes
    with pytest.raises(ValueError, match="input 0: prepared for"):
        runner.bind(inputs(model, batch + 1, 11))
    with pytest.raises(ValueError, match="inputs, got"):
        runner.bind(inputs(model, batch, 11) * 2)


@pytest.mark.parametrize(("backend", "model"), sorted(UNSUITED))
def test_what_is_unsuited_says_so(request_for: Callable[..., Request], backend: str, model: str) -> None:
    module, variant = backends.split(backend)
    with pytest.raises(Unavailable, match="can't take the model"):
        module.prepare(request_for(model, variant, 1))


def test_bound_calls_keep_their_own_inputs(request_for: Callable[..., Request]) -> None:
    for backend in ("eager.fp32", "onnxruntime.fp32"):
        runner = prepare(request_for, backend, "cnn", 1)
        a, b = inputs("cnn", 1, 1), inputs("cnn", 1, 2)
        first, second = runner.bind(a), runner.bind(b)
        assert torch.allclose(runner.tensor(first()), reference("cnn", a), atol=1e-6)
        assert torch.allclose(runner.tensor(second()), reference("cnn", b), atol=1e-6)
        assert torch.allclose(runner.tensor(first()), reference("cnn", a), atol=1e-6)


@pytest.mark.parametrize("backend", HERE)
def test_cuda_says_why_not(backend: str) -> None:
    module, variant = backends.split(backend)
    why = module.available(variant, "cuda")
    if torch.cuda.is_available():
        assert why is None or why.reason
    else:
        assert isinstance(why, Unavailable)
        assert why.reason


@pytest.mark.parametrize(
    ("name", "near"), [("eager.fp23", "eager.fp32"), ("eagr.fp32", "eager"), ("onnxruntime", "onnxruntime.fp32")]
)
def test_unknown_names_suggest_near_ones(name: str, near: str) -> None:
    with pytest.raises(PyprodError, match=f"did you mean.*{near}"):
        backends.split(name)
