"""Run the study: gates of drawn variants, each written down when it ends. It can be stopped and gone on with."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyprod import environment
from pyprod.gate.book import LATENCY
from pyprod.gate.evidence import NAME, replay
from pyprod.gate.evidence import read as read_evidence
from pyprod.measure.decide import Rule
from pyprod.measure.store import write_atomically
from tools.gate_study import rivals
from tools.gate_study.noise import noise
from tools.gate_study.variants import VARIANTS, WORKS

ROOT = Path(__file__).parent.parent.parent
PLAN, RUNS, ENVIRONMENT = "plan.json", "runs.jsonl", "environment.json"


@dataclass(frozen=True)
class Plan:
    """What is frozen before the first run.

    Attributes:
        budget, tolerance: of each gate, as its options.
        load: processes of other work beside it.
        null_share: how often an edit that changes nothing is drawn.
        realtime: whether gates may ask for real-time scheduling.
        rivals: have asv and pytest-benchmark judge each variant too, in random order with the gate.
    """

    budget: str = "60s"
    tolerance: str = "2%"
    load: int = 4
    null_share: float = 0.6
    realtime: bool = True
    rivals: bool = True


def begin(folder: Path, plan: Plan) -> None:
    """Make the record of a new study; an existing one must have the same plan.

    Raises:
        SystemExit: it has another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = asdict(plan) | {"variants": {v.name: dict(v.counts) for v in VARIANTS.values()}}
    wanted |= {"works": {w.benchmark: w.unit for w in WORKS}}
    wanted |= {"rule": asdict(Rule()) | {"looks": list(Rule().looks)}}
    path = folder / PLAN
    if path.exists():
        if json.loads(path.read_text()) != wanted:
            raise SystemExit(f"{path} is another plan: a study's plan is frozen; name another folder")
        return
    write_atomically(path, json.dumps(wanted, indent=1) + "\n")
    write_atomically(folder / ENVIRONMENT, json.dumps(environment.fingerprint(), indent=1) + "\n")


def run(folder: Path, plan: Plan, runs: int) -> None:
    """Take so many more runs; variants and seeds are fresh draws."""
    rng = random.Random(os.urandom(8))
    with tempfile.TemporaryDirectory(prefix="pyprod-study-") as scratch:
        clone = Path(scratch, "project")
        make_clone(clone)
        for number in range(runs):
            kinds = [v for v in VARIANTS.values() if v.null == (rng.random() < plan.null_share)] or [*VARIANTS.values()]
            name = rng.choice(kinds).name
            tools = list(rivals.TOOLS if plan.rivals else [rivals.GATE])
            rng.shuffle(tools)
            for tool in tools:
                with noise(plan.load):
                    line = judge(tool, clone, name, plan, rng.randrange(2**31))
                with (folder / RUNS).open("a") as file:
                    file.write(json.dumps(line) + "\n")
                said = f"{number + 1}/{runs} {name}: {tool} says {line['verdict']} in {line['wall_s']:.0f} s"
                print(said, file=sys.stderr)


def make_clone(clone: Path) -> None:
    """The project at its commit, with a branch for each variant."""
    git(ROOT, "clone", "--quiet", "--local", str(ROOT), str(clone))
    git(clone, "config", "user.email", "study@example.com")
    git(clone, "config", "user.name", "Study")
    git(clone, "branch", "base")
    for number, variant in enumerate(VARIANTS.values()):
        git(clone, "checkout", "--quiet", "-b", f"variant-{number}", "base")
        for edit in variant.edits:
            edit.apply(clone)
        git(clone, "commit", "--quiet", "--all", "--message", variant.name)


def judge(tool: str, clone: Path, name: str, plan: Plan, seed: int) -> dict[str, Any]:
    """One tool's judgment of one variant."""
    if tool == rivals.GATE:
        return gate(clone, name, plan, seed) | {"tool": tool}
    branch = f"variant-{list(VARIANTS).index(name)}"
    built = rivals.trees(clone, branch, clone.parent / "rivals")
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="pyprod-study-rival-") as folder:
        if tool == rivals.ASV:
            rows = rivals.asv(built, clone, branch, Path(folder))
        else:
            rows = rivals.pytest_benchmark(built, Path(folder))
    about = {"variant": name, "seed": seed, "started": round(started), "wall_s": round(time.time() - started, 1)}
    failed = any(row["verdict"] == "FAIL" for row in rows)
    verdict = {"verdict": "FAIL" if failed else "PASS", "rows": rows}
    return about | {"tool": tool, "load": os.getloadavg()[0], "code": int(failed)} | verdict


def gate(clone: Path, name: str, plan: Plan, seed: int) -> dict[str, Any]:
    """One gate, and what it said."""
    branch = f"variant-{list(VARIANTS).index(name)}"
    command = [sys.executable, "-P", "-m", "pyprod", "gate", "base", branch, "--json", "--seed", str(seed)]
    out = clone.parent / f"run-{seed}"
    command += ["--budget", plan.budget, "--tolerance", plan.tolerance, "--out", str(out)]
    command += [] if plan.realtime else ["--no-realtime"]
    started = time.time()
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(f"the gate could not run: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    keep = ("benchmark", "metric", "state", "verdict", "ratio", "low", "high", "pairs", "detectable", "noise")
    return {
        "variant": name,
        "seed": seed,
        "started": round(started),
        "wall_s": round(time.time() - started, 1),
        "load": os.getloadavg()[0],
        "code": done.returncode,
        "verdict": found["verdict"],
        "rows": [{key: rounded(row[key]) for key in keep} for row in found["rows"]],
        "commit": found["base"]["commit"],
    } | taken(next(out.glob(f"*/{NAME}")))


def taken(evidence: Path) -> dict[str, Any]:
    """What a gate measured, pair by pair: the zygote of each, and by benchmark the log-ratios of latency."""
    zygotes = {event["pair"]: event["zygote"] for event in read_evidence(evidence) if event["kind"] == "pair"}
    logs = {
        row.benchmark: {pair: round(float(np.median(found)), 5) for pair, found in sorted(row.pairs.items())}
        for row in replay(evidence).rows.values()
        if row.metric == LATENCY
    }
    return {"zygotes": [zygotes[pair] for pair in sorted(zygotes)], "logs": logs}


def rounded(value: Any) -> Any:
    """Six digits of a number are enough to read."""
    return round(value, 6) if isinstance(value, float) else value


def read(folder: Path) -> list[Mapping[str, Any]]:
    """The runs so far."""
    path = folder / RUNS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def git(folder: Path, *arguments: str) -> None:
    """Run git in a folder."""
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)
