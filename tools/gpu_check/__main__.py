"""``python -m tools.gpu_check``: see the package."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from pyprod import environment
from pyprod.gpu import present
from pyprod.measure.store import write_atomically
from pyprod.types import PyprodError
from tools.gpu_check import table

ROOT = Path(__file__).parents[2]
#: In order, with the seconds that each may take: nine minutes in all.
STEPS = {"ceilings": 60, "correctness": 120, "benchmark": 200, "sanitizer": 100, "profile": 60}


def main() -> int:
    """0: everything right; 1: a step found something wrong, or did not end; 2: nothing can be checked here."""
    parser = argparse.ArgumentParser(prog="make gpu-check", description="check and measure the CUDA kernels on a GPU")
    parser.add_argument("--out", type=Path, help="folder of the record (default: results/gpu-check/DATE-GPU)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)  # in the process that the command starts
    options = parser.parse_args()
    if why := present.torch_device("cuda"):
        print(f"gpu-check: {why}", file=sys.stderr)
        return 2
    if options.step:
        return run_here(options.step, options.out)
    out = options.out or ROOT / "results/gpu-check" / f"{datetime.date.today().isoformat()}-{gpu_name()}"
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "environment.json", json.dumps(about(), indent=1) + "\n")
    wrong = [line for name in options.steps for line in run_apart(name, out)]
    print(table.markdown(out))
    print("\n".join(wrong) or "gpu-check: nothing wrong")
    return 1 if wrong else 0


def gpu_name() -> str:
    """Of the current device, as a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def about() -> dict[str, Any]:
    """The machine, as every record has it, and the versions of what the kernels ran on."""
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    return environment.fingerprint() | {"torch_cuda": torch.version.cuda, "capability": capability}


def run_apart(name: str, out: Path) -> list[str]:
    """Run a step in a process of its own, which writes ``NAME.json``; returns what is wrong, a line each."""
    print(f"gpu-check: {name} ...", file=sys.stderr, flush=True)
    start, result = time.monotonic(), out / f"{name}.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tools.gpu_check", "--step", name, "--out", str(out)]
    path = out / f"{name}.log"
    with path.open("w") as log:
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=STEPS[name]).returncode
        except subprocess.TimeoutExpired:
            return [f"{name}: not done after {STEPS[name]} s; see {path}"]
    print(f"gpu-check: {name} took {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    if code != 0 or not result.is_file():
        tail = path.read_text().strip().splitlines()[-3:]
        return [f"{name}: exit code {code}", *(f"    {line}" for line in tail)]
    return [f"{name}: {line}" for line in json.loads(result.read_text()).get("wrong", [])]


def run_here(name: str, out: Path) -> int:
    """The step itself."""
    module = __import__(f"tools.gpu_check.steps.{name}", fromlist=["run"])
    try:
        found = module.run(out)
    except PyprodError as error:
        found = {"wrong": [str(error)]}
    write_atomically(out / f"{name}.json", json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
