"""A process that compiled several models with OpenVINO must outlive its next signal."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc, signal
import numpy as np
import openvino as ov
from openvino import opset13 as ops
from pyprod.openvino_core import core

def compiled():
    x = ops.parameter([2, 2], np.float32)
    made = core()  # with ov.Core() the signal kills the process, where the CPU has AMX
    return made, made.compile_model(ov.Model([ops.relu(x)], [x]), "CPU")

first, second = compiled(), compiled()
del first  # before the second, which the plugin does not expect
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""


def test_signals_are_handled_after_models_are_gone() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
