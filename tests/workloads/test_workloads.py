"""Every workload loads, runs in eager and reaches the metric that docs/workloads.md states."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from pyprod import discover, workloads
from pyprod.types import Evaluation, Unavailable
from pyprod.workloads import Workload, _llama

# What docs/workloads.md states. Other CPUs and thread counts change the last digits only: the bands are that wide.
METRIC = {
    "decoder": ("perplexity", 42.14, 0.1),
    "decoder_step": ("perplexity", 64.96, 0.2),
    "digits": ("mean", 0.988, 0.002),
    "encoder": ("pearson", 0.654, 0.001),
    "fashion_mnist": ("mean", 0.919, 0.001),
    "sentiment": ("mean", 0.782, 0.003),
    "tabular": ("roc_auc", 0.748, 0.001),
}
NAMES = discover.names("pyprod.workloads")
SMALL = ("digits", "encoder", "fashion_mnist", "sentiment", "tabular")


# torch 2.13 discourages TorchScript; it is one of the forms that pyprod measures.
TRACING_IS_MEASURED = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@cache
def load(name: str) -> Workload:
    try:
        return workloads.load(name)
    except Unavailable as why:
        pytest.skip(f"{name}: {why}")


@cache
def model(name: str) -> nn.Module:
    return load(name).model()


def outputs(name: str) -> torch.Tensor:
    workload, module, batch = load(name), model(name), 8
    found = []
    with torch.inference_mode():
        for start in range(0, workload.inputs[0].shape[0], batch):
            rows = module(*(t[start : start + batch] for t in workload.inputs))
            found.append(workload.reduce(rows, start))
    return torch.cat(found)


def value(found: Evaluation) -> float:
    values = np.array(found.values)
    match found.statistic:
        case "mean":
            return float(values.mean())
        case "pearson":
            return float(scipy.stats.pearsonr(values, found.truth).statistic)
        case "roc_auc":
            return float(roc_auc_score(found.truth, values))
        case "perplexity":
            return float(np.exp(values.mean()))
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("name", NAMES)
def test_reaches_the_metric_that_the_docs_state(name: str) -> None:
    statistic, expected, band = METRIC[name]
    score = load(name).score
    assert score is not None
    found = score(outputs(name))
    assert found.statistic == statistic
    assert not found.truth or len(found.truth) == len(found.values)
    assert not found.cluster or len(found.cluster) == len(found.values)
    assert abs(value(found) - expected) < band


def test_the_docs_state_these_metrics() -> None:
    rows = (Path(__file__).parents[2] / "docs" / "workloads.md").read_text().splitlines()
    for name, (_, expected, _) in METRIC.items():
        (row,) = (row for row in rows if row.startswith(f"| `{name}` |"))
        assert f" {expected:g} |" in row
    assert set(METRIC) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_calibration_looks_like_the_inputs_and_shares_no_row_with_them(name: str) -> None:
    workload = load(name)
    for ours, theirs in zip(workload.inputs, workload.calibration, strict=True):
        assert ours.shape[1:] == theirs.shape[1:]
        assert ours.dtype == theirs.dtype
    widest = max(range(len(workload.inputs)), key=lambda i: workload.inputs[i][0].numel())
    scored = {row.numpy().tobytes() for row in workload.inputs[widest]}
    assert not scored & {row.numpy().tobytes() for row in workload.calibration[widest]}


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_larger_than_the_set_repeats_its_rows(name: str) -> None:
    workload = load(name)
    rows = workload.inputs[0].shape[0]
    for example, inputs in zip(workload.example(rows + 1), workload.inputs, strict=True):
        assert example.shape == (rows + 1, *inputs.shape[1:])
        assert example.is_contiguous()
        assert torch.equal(example[-1], inputs[0])


@TRACING_IS_MEASURED
@pytest.mark.parametrize("name", SMALL)
def test_exports_and_traces(name: str) -> None:
    _export_and_trace(model(name), load(name).example(2))


@TRACING_IS_MEASURED
@pytest.mark.parametrize("kind", [_llama.Decoder, _llama.DecoderStep])
def test_a_decoder_exports_and_traces(kind: type[_llama.Decoder], monkeypatch: pytest.MonkeyPatch) -> None:
    """With 2 layers and few words: the other 28 layers are the same code, and take minutes to export."""
    monkeypatch.setattr(_llama, "LAYERS", 2)
    monkeypatch.setattr(_llama, "VOCABULARY", 100)
    module, ids = kind(16).eval(), torch.arange(32).view(2, 16)
    with torch.no_grad():
        cache = _llama.Decoder.prefill(module, ids[:, :-1])[1]
    _export_and_trace(module, (ids[:, -1:], cache) if kind is _llama.DecoderStep else (ids,))


def _export_and_trace(module: nn.Module, example: tuple[torch.Tensor, ...]) -> None:
    with torch.no_grad():
        expected = module(*example)
        traced = torch.jit.trace(module, example)(*example)
    exported = torch.export.export(module, example, strict=True).module()(*example)
    for got in (exported, traced):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_decoding_step_gives_what_the_whole_sequence_gives() -> None:
    """The slow twin: no cache, everything computed again."""
    step, whole, ids = model("decoder_step"), model("decoder"), load("decoder").inputs[0][:1]
    with torch.inference_mode():
        logits, cache = whole.prefill(ids)  # type: ignore[operator]
        got = step(ids[:, -1:], cache[:, :, :, :, :-1])
    torch.testing.assert_close(got, logits[:, -1], rtol=1e-4, atol=1e-4)
    # The first stretch of both is the same text: its stored cache must be this one.
    torch.testing.assert_close(load("decoder_step").inputs[1][:1], cache[:, :, :, :, :-1], rtol=1e-4, atol=1e-4)
