"""ResNet-8 (78k parameters) on Fashion-MNIST, 28x28 gray images of clothes in ten classes."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.types import Unavailable
from pyprod.workloads import Training, Workload, _assets, _augment, _sources, _weights
from pyprod.workloads._resnet import ResNet
from pyprod.workloads._score import correct

SCORED_ROWS = 2_000  # the first of the 10,000 test images: enough to see a loss of 1%, and 2 s at batch 1
CALIBRATION_ROWS = 64  # the last of them: this way, benchmarking does without the 26 MB of training images

FOLDER_VARIABLE = "PYPROD_FASHION_MNIST"
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_DEBIAN = "usr/share/datasets/fashion-mnist"


def _folder_of_the_user(folder: Path) -> None:
    if not (chosen := os.environ.get(FOLDER_VARIABLE)):
        raise Unavailable(f"{FOLDER_VARIABLE} names no folder")
    _sources.local(Path(chosen), tuple(path.name for path in Path(chosen).glob("*-ubyte.gz")))(folder)


def _asset(part: str, images: str, labels: str, size: int) -> _assets.Asset:
    files = {f"{part}-images-idx3-ubyte.gz": images, f"{part}-labels-idx1-ubyte.gz": labels}
    sources = (
        _folder_of_the_user,
        _sources.local(Path("/") / _DEBIAN, tuple(files)),
        _sources.url(_URL, tuple(files)),
        _sources.debian("dataset-fashion-mnist", _DEBIAN, tuple(files)),
    )
    return _assets.Asset(f"fashion-mnist-{part}", files, size, sources)


TEST = _asset(
    "t10k",
    "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    4_427_204,
)
TRAIN = _asset(
    "train",
    "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    26_451_347,
)
ASSETS = (TEST,)


def build() -> Workload:
    """The first 2,000 test images; calibration on the last 64, which are not scored."""
    images, labels = _data(TEST, "t10k")
    return Workload(
        model=lambda: _weights.restore(_model, _weights.trained("fashion_mnist")),
        inputs=(images[:SCORED_ROWS],),
        calibration=(images[-CALIBRATION_ROWS:],),
        score=lambda logits: correct(logits, labels[:SCORED_ROWS]),
        unit="image",
        training=training,
        metadata={
            "preprocessing": "(gray / 255 - 0.2860) / 0.3530",
            "output": "logits",
            "labels": "T-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot",
        },
    )


def training() -> Training:
    """The 60,000 training images, shifted and mirrored at random: about a minute for each pass over them."""
    images, labels = _data(TRAIN, "train")
    return Training(
        _model,
        (images,),
        labels,
        F.cross_entropy,
        epochs=5,
        batch=128,
        learning_rate=0.01,
        augment=lambda batch: _augment.mirror(_augment.shift(batch, 2)),
    )


def _model() -> nn.Module:
    return ResNet((16, 32, 64))


def _data(asset: _assets.Asset, part: str) -> tuple[Tensor, Tensor]:
    """Images float ``[n, 1, 28, 28]``, mean 0 and deviation 1 over the training set; labels int64 ``[n]``."""
    folder = _assets.fetch(asset)
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    images = torch.from_numpy((pixels.astype(np.float32) / 255 - 0.2860) / 0.3530)
    return images, torch.from_numpy(labels.astype(np.int64))
