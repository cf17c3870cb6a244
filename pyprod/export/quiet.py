"""Silences what libraries say about themselves: each warning by its exact text, and nothing of the user's."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: (message, category): what raises it, and why it can't be avoided.
_KNOWN: tuple[tuple[str, type[Warning]], ...] = (
    # torch.jit since 2.9 on every entry point; torch.compile's own imports still use script_method.
    (r"`torch\.jit\.\w+` is deprecated", DeprecationWarning),
    # torch.ao's engines stay in PyTorch until torchao replaces them; they are what this release ships.
    (r"torch\.ao\.quantization is deprecated", DeprecationWarning),
    (r"torch\.quantize_per_tensor, torch\.quantize_per_channel and other quantized tensor", UserWarning),
    # torch.save of torchao's tensors.
    (r"TypedStorage is deprecated", UserWarning),
    # torch.export through copyreg, by torch's own use of its deprecated class.
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    # torch.onnx: all inputs share the batch and what else is open by design, and so the name.
    (r"# The axis name: \w+ will not be used", UserWarning),
)


#: Loggers that warn of what is no fault of anybody here, and why.
_LOGGERS = (
    "torch.onnx._internal.exporter._registration",  # torchvision, of no use here, is not installed
    "torchao",  # importing it: its CUDA libraries do not load on a CPU
    "torch.utils._pytree",  # importing torchao 0.18: how it registers an Enum
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings known to come from PyTorch's own code."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message, category in _KNOWN:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
