"""SmolLM2-135M decoder over 128 tokens at once (prefill); perplexity of news texts."""

from __future__ import annotations

from torch import Tensor

from pyprod.workloads import Dimension, Workload, _llama, _smollm
from pyprod.workloads._weights import restore

LENGTH = 128
SCORED_ROWS = 16  # 2,032 predicted tokens: a batch of one takes 0.4 s, and every candidate is scored
CALIBRATION_ROWS = 16
ASSETS = _smollm.ASSETS


def build() -> Workload:
    """The first 16 stretches of 128 tokens; the calibration rows are the last 16 of the corpus."""
    ids = _smollm.tokens()
    scored = ids[: SCORED_ROWS * LENGTH].view(SCORED_ROWS, LENGTH)

    def reduce(logits: Tensor, start: int) -> Tensor:
        return _smollm.surprise(logits[:, :-1], scored[start : start + len(logits), 1:])

    return Workload(
        model=lambda: restore(lambda: _llama.Decoder(LENGTH), _smollm.state()),
        inputs=(scored,),
        calibration=(ids[-CALIBRATION_ROWS * LENGTH :].view(CALIBRATION_ROWS, LENGTH),),
        score=_smollm.perplexity,
        reduce=reduce,
        unit="sequence",
        tokens_per_sample=LENGTH,
        dimensions=(Dimension("sequence", ((0, 1),), most=LENGTH),),
        metadata={"preprocessing": "tokenizer.json of HuggingFaceTB/SmolLM2-135M", "output": "logits"},
    )
