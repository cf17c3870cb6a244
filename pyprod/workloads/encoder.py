"""MiniLM-L6 sentence encoder (22M parameters), 128 tokens; similarity of documents against human judgment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyprod.types import Evaluation
from pyprod.workloads import Workload, _assets, _bert, _sources

LENGTH = 128
CALIBRATION_ROWS = 64

_DATA = "gensim/test/test_data/"
LEE = _assets.Asset(
    name="gensim-4.4.0",
    files={
        "lee.cor": "a878f9a58f6743c32985c56c2f2f75988386216b38a4023a01fd3bcf7884d93e",
        "lee_background.cor": "5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
        "similarities0-1.txt": "23762bc6b728897144dda3d324a2c032dc1e059e1009806226d64b6dd123ed79",
    },
    size=27_809_988,
    sources=(
        _sources.package(
            "gensim==4.4.0",
            "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
            (_DATA + "lee.cor", _DATA + "lee_background.cor", _DATA + "similarities0-1.txt"),
            # Only texts are read, so one machine's wheel serves every machine: the digest is always the same.
            ("--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--abi=cp311"),
        ),
    ),
)
ASSETS = (_bert.MINILM, LEE)


def build() -> Workload:
    """50 short news texts (Lee, Pincombe and Welsh 2005), each pair judged by about ten people."""
    folder = _assets.fetch(LEE)
    rows = _assets.derive("encoder-tokens", (1, LENGTH, LEE.files, _bert.MINILM.files), _tokens)
    human = torch.from_numpy(np.loadtxt(folder / "similarities0-1.txt"))
    return Workload(
        model=_bert.pretrained,
        inputs=(rows["input_ids"], rows["attention_mask"]),
        calibration=(rows["calibration_ids"], rows["calibration_mask"]),
        score=lambda outputs: similarity(outputs, human),
        unit="text",
        tokens_per_sample=LENGTH,
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
    folder = _assets.fetch(LEE)
    texts = _lines(folder / "lee.cor")
    others = [text for text in _lines(folder / "lee_background.cor") if text not in texts]
    calibration = _bert.tokenize(others[:CALIBRATION_ROWS], LENGTH)
    return {
        **_bert.tokenize(texts, LENGTH),
        "calibration_ids": calibration["input_ids"],
        "calibration_mask": calibration["attention_mask"],
    }


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="latin-1").splitlines()
