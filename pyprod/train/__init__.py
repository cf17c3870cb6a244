"""The training loop: one, whose arguments are precision, accumulation, objective and what happens after each step.

>>> made = fit(data.model, data, Settings(epochs=3), folder=Path("run"))
>>> made.model

Distillation is an objective (`pyprod.train.distill`), quantization-aware training a model with fake quantization in it
(`pyprod.quantize.qat`), pruning a callback (`pyprod.optimize.magnitude`). docs/training.md says what is the same after
a kill and what is not.
"""

from pyprod.train.loop import fit, supervised
from pyprod.train.precision import PRECISIONS
from pyprod.train.settings import Callback, Diverged, Epoch, Fitted, Objective, Settings

__all__ = ["PRECISIONS", "Callback", "Diverged", "Epoch", "Fitted", "Objective", "Settings", "fit", "supervised"]
