"""What only a GPU can say of the CUDA kernels, in one command: are they right, are they clean, how fast are they.

``make gpu-check`` runs `steps` one after the other, each in a process of its own with a time limit, and writes what
they found into one record. It needs torch, numpy, psutil and NVML's bindings, no network, and pyprod/libpyprod.so:
built on the spot, or carried there.
"""

from __future__ import annotations

import json
from pathlib import Path

from tools.gpu_check import table


def newest(results: Path) -> str:
    """Markdown of the newest record under `results`, and the machine that it is of."""
    found = sorted((results / "gpu-check").glob("*/environment.json"))
    if not found:
        return "*Not measured yet: none of these kernels has run on a GPU.*\n"
    folder = found[-1].parent
    about = json.loads(found[-1].read_text())
    path = f"results/gpu-check/{folder.name}"
    machine = f"{about['gpus'][0]['name']}, torch {about['packages']['torch']}, `make gpu-check`"
    return f"{table.markdown(folder)}\n*{machine}; the record is [{path}](../{path}).*\n"
