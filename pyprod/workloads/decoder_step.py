"""SmolLM2-135M generating one token after 127 in its KV cache (decode): what a user feels as tokens/s."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyprod.workloads import Workload, _assets, _llama, _smollm
from pyprod.workloads._weights import restore

LENGTH = 128
SCORED_ROWS = 32  # a row's cache is 5.9 MB
CALIBRATION_ROWS = 8
ASSETS = _smollm.ASSETS


def build() -> Workload:
    """The last token of 32 stretches of text, and whether the model expects the one that follows."""
    key = (1, LENGTH, SCORED_ROWS, CALIBRATION_ROWS, [asset.files for asset in ASSETS])
    rows = _assets.derive("decoder-step-cache", key, _prefilled)
    inputs = rows["token"], rows["cache"]

    def reduce(logits: Tensor, start: int) -> Tensor:
        return _smollm.surprise(logits[:, None], rows["next"][start : start + len(logits)])

    return Workload(
        model=lambda: restore(lambda: _llama.DecoderStep(LENGTH), _smollm.state()),
        inputs=tuple(t[:SCORED_ROWS] for t in inputs),
        calibration=tuple(t[SCORED_ROWS:] for t in inputs),
        score=_smollm.perplexity,
        reduce=reduce,
        unit="token",
        tokens_per_sample=1,
    )


def _prefilled() -> Mapping[str, Tensor]:
    """For each stretch of text: token int64 ``[1]``, the cache of the tokens before it, and the next token."""
    rows = SCORED_ROWS + CALIBRATION_ROWS
    ids = _smollm.tokens()[: rows * (LENGTH + 1)].view(rows, LENGTH + 1)
    model = restore(lambda: _llama.Decoder(LENGTH), _smollm.state())
    with torch.inference_mode():
        caches = [model.prefill(row[None, : LENGTH - 1])[1] for row in ids]
    return {"token": ids[:, LENGTH - 1 : LENGTH], "cache": torch.cat(caches), "next": ids[:, LENGTH:]}
