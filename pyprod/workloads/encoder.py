"""MiniLM-L6 sentence encoder (22M parameters), 128 tokens; similarity of documents against human judgment."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyprod.types import Evaluation
from pyprod.workloads import Workload, _assets, _bert, _lee

LENGTH = 128
CALIBRATION_ROWS = 64

ASSETS = (_bert.MINILM, _lee.LEE)


def build() -> Workload:
    """50 short news texts (Lee, Pincombe and Welsh 2005), each pair judged by about ten people."""
    folder = _assets.fetch(_lee.LEE)
    rows = _assets.derive("encoder-tokens", (1, LENGTH, _lee.LEE.files, _bert.MINILM.files), _tokens)
    human = torch.from_numpy(np.loadtxt(folder / "similarities0-1.txt"))
    return Workload(
        model=_bert.pretrained,
        inputs=(rows["input_ids"], rows["attention_mask"]),
        calibration=(rows["calibration_ids"], rows["calibration_mask"]),
        score=lambda outputs: similarity(outputs, human),
        unit="text",
        tokens_per_sample=LENGTH,
        dimensions=(_bert.SEQUENCE,),
        metadata={**_bert.METADATA, "output": "embedding of length 1: texts are as similar as their dot product"},
    )


def similarity(embeddings: Tensor, human: Tensor) -> Evaluation:
    """Cosine of each of the 1,225 pairs against the mean human judgment (0 to 1), ``human [50, 50]``.

    Pearson correlation, as in the paper. A pair's values depend on both its texts: they are its clusters.
    """
    first, second = torch.triu_indices(len(human), len(human), offset=1)
    cosine = (embeddings[first] * embeddings[second]).sum(1)
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    return Evaluation("pearson", cosine.tolist(), human[first, second].tolist(), pairs)


def _tokens() -> dict[str, Tensor]:
    texts = _lee.texts("lee.cor")
    others = [text for text in _lee.texts("lee_background.cor") if text not in texts]
    calibration = _bert.tokenize(others[:CALIBRATION_ROWS], LENGTH)
    return {
        **_bert.tokenize(texts, LENGTH),
        "calibration_ids": calibration["input_ids"],
        "calibration_mask": calibration["attention_mask"],
    }
