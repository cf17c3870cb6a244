"""ResNet-6 (20k parameters) on scikit-learn's bundled 8x8 handwritten digits: nothing to download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.types import Unavailable
from pyprod.workloads import Training, Workload, _assets, _augment, _weights
from pyprod.workloads._resnet import ResNet
from pyprod.workloads._score import correct

TRAIN_ROWS = 1_197  # of 1,797, in the order of the file
CALIBRATION_ROWS = 64
ASSETS = ()


def build() -> Workload:
    """The last 600 images; the calibration rows are training rows."""
    images, labels = _data()
    return Workload(
        model=lambda: _weights.restore(_model, _weights.trained("digits")),
        inputs=(images[TRAIN_ROWS:],),
        calibration=(images[:CALIBRATION_ROWS],),
        score=lambda logits: correct(logits, labels[TRAIN_ROWS:]),
        unit="image",
        training=training,
        metadata={"preprocessing": "gray values from 0 to 1 (ink is 1)", "output": "logits", "labels": "0 to 9"},
    )


def training() -> Training:
    """The first 1,197 images, moved by up to a pixel."""
    images, labels = (t[:TRAIN_ROWS] for t in _data())
    return Training(
        _model,
        (images,),
        labels,
        F.cross_entropy,
        epochs=30,
        batch=64,
        learning_rate=0.01,
        augment=lambda batch: _augment.shift(batch, 1),
    )


def _model() -> nn.Module:
    return ResNet((16, 32))


def _data() -> tuple[Tensor, Tensor]:
    """Images float ``[1797, 1, 8, 8]`` from 0 to 1 and labels int64 ``[1797]``.

    Read from the package's file: importing sklearn.datasets takes longer than all the rest of the workload.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("scikit-learn is not installed", "pip install scikit-learn")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    _assets.check(path, "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22", "reinstall scikit-learn")
    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
    return table[:, :64].reshape(-1, 1, 8, 8) / 16, table[:, 64].long()
