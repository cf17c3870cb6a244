"""MiniLM-L6 with a classifier head, 64 tokens: is a snippet of a movie review positive? Rated by 15 people or more."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Mapping

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.workloads import Training, Workload, _assets, _bert, _sources, _weights
from pyprod.workloads._score import correct

LENGTH = 64  # tokens; one snippet in a thousand is longer, and cut
TRAIN_ROWS = 8_000  # of 10,566 in random order
SCORED_ROWS = 400  # of the 2,566 held out: a batch of one takes 20 ms, and every candidate is scored
CALIBRATION_ROWS = 64
HIDDEN = 256

_ARCHIVE = "hutto_ICWSM_2014.tar.gz"
SNIPPETS = _assets.Asset(
    name="vaderSentiment-3.3.2",
    files={_ARCHIVE: "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"},
    size=2_466_783,
    sources=(
        _sources.package(
            "vaderSentiment==3.3.2",
            "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            (f"vaderSentiment-3.3.2/additional_resources/{_ARCHIVE}",),
            ("--no-binary=:all:",),  # the wheel leaves the ratings out
        ),
    ),
)
ASSETS = (_bert.MINILM, SNIPPETS)
_KEY = (1, LENGTH, SNIPPETS.files, _bert.MINILM.files)


class Classifier(nn.Module):
    """Ids and mask int64 ``[b, t]`` -> logits ``[b, 2]``: negative, positive."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _bert.SentenceEncoder()
        self.head = _head()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(input_ids, attention_mask))
        return out


def build() -> Workload:
    """400 held-out snippets; the calibration rows are training rows."""
    rows = _assets.derive("sentiment-tokens", _KEY, _tokens)
    tokens = rows["input_ids"], rows["attention_mask"]
    scored = slice(TRAIN_ROWS, TRAIN_ROWS + SCORED_ROWS)
    return Workload(
        model=_model,
        inputs=tuple(t[scored] for t in tokens),
        calibration=tuple(t[:CALIBRATION_ROWS] for t in tokens),
        score=lambda logits: correct(logits, rows["labels"][scored]),
        unit="text",
        tokens_per_sample=LENGTH,
        training=lambda: _further(rows),
        dimensions=(_bert.SEQUENCE,),
        metadata={**_bert.METADATA, "output": "logits", "labels": "negative, positive"},
    )


def training() -> Training:
    """The head, on the sentence embeddings of 8,000 snippets; MiniLM stays as published."""
    embeddings = _assets.derive("sentiment-embeddings", _KEY, _embeddings)["embeddings"]
    labels = _assets.derive("sentiment-tokens", _KEY, _tokens)["labels"][:TRAIN_ROWS]
    return Training(
        _head, (embeddings,), labels, F.cross_entropy, epochs=20, batch=128, learning_rate=2e-3, weight_decay=0.1
    )


def _further(rows: Mapping[str, Tensor]) -> Training:
    """The whole model, on the tokens of the same snippets."""
    inputs = tuple(rows[key][:TRAIN_ROWS] for key in ("input_ids", "attention_mask"))
    labels = rows["labels"][:TRAIN_ROWS]
    return Training(_model, inputs, labels, F.cross_entropy, epochs=2, batch=32, learning_rate=2e-5)


def _head() -> nn.Module:
    return nn.Sequential(nn.Linear(_bert.WIDTH, HIDDEN), nn.GELU(), nn.Dropout(0.2), nn.Linear(HIDDEN, 2))


def _model() -> nn.Module:
    encoder = {f"encoder.{name}": tensor for name, tensor in _bert.encoder_state().items()}
    head = {f"head.{name}": tensor for name, tensor in _weights.trained("sentiment").items()}
    return _weights.restore(Classifier, encoder | head)


def _tokens() -> Mapping[str, Tensor]:
    """All snippets in random order, and 1 where the mean rating is above 0; those rated 0 and repeats are left out."""
    with tarfile.open(_assets.fetch(SNIPPETS) / _ARCHIVE) as archive:
        file = archive.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        assert file is not None, "it is no folder"
        lines = file.read().decode().splitlines()
    ratings = {text: float(mean) for _, mean, text in (line.split("\t") for line in lines) if float(mean)}
    texts = list(ratings)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    labels = torch.tensor([int(ratings[texts[i]] > 0) for i in order])
    return {**_bert.tokenize([texts[i] for i in order], LENGTH), "labels": labels}


def _embeddings() -> Mapping[str, Tensor]:
    rows = _assets.derive("sentiment-tokens", _KEY, _tokens)
    encoder, batch = _bert.pretrained(), 50
    starts = track(range(0, TRAIN_ROWS, batch), "embedding", disable=not sys.stderr.isatty())
    with torch.inference_mode():
        found = [encoder(*(rows[key][i : i + batch] for key in ("input_ids", "attention_mask"))) for i in starts]
    return {"embeddings": torch.cat(found)}
