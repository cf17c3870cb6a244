"""The verb ``gate``."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from pyprod.cli.common import FAIL, INTERRUPTED, NOTHING_MEASURED, SUCCESS, UNDECIDED, add_verb, share
from pyprod.types import PyprodError


def add_to(verbs: Any) -> None:
    """Add the verb to the command line."""
    verb = add_verb(
        verbs, "gate", gate, "did a change make it slower? compare two revisions; the exit code is the verdict"
    )
    _gate_options(verb)


def gate(options: argparse.Namespace) -> int:
    """Compare two revisions, or take a verdict again from its evidence."""
    from pyprod import gate as gate_
    from pyprod.gate import records
    from pyprod.gate import report as formats
    from pyprod.progress import Share

    for path in options.report:
        formats.check(path)
    if options.replay:
        book, folder = gate_.replay(options.replay), None
    elif records.is_record(options.base):
        if not records.is_record(options.head):
            raise PyprodError(f"{options.base} is a record: HEAD must be one too, not {options.head or 'nothing'}")
        settings = _gate_settings(options, records.TOLERANCE)
        book, folder = gate_.compare_records(Path(options.base), Path(options.head), settings, options.out)
    elif options.base is None:
        raise PyprodError("which revision is BASE? e.g. pyprod gate main (the working tree against main)")
    else:
        with Share("gate") as bar:
            book, folder = gate_.compare(_gate_request(options), _gate_settings(options), bar)
        options.report.append(folder / "report.md")
    for path in options.report:
        formats.write(book, path)
    if options.json:
        print(formats.to_json(book), end="")
    else:
        width = Console().width if sys.stdout.isatty() else 120
        print(formats.to_text(book, width, color=sys.stdout.isatty()), end="")
        if folder:
            print(f"evidence {folder}\nreplay   pyprod gate --replay {folder}")
    if options.annotate == "github" or (options.annotate == "auto" and os.environ.get("GITHUB_ACTIONS")):
        print(*formats.to_annotations(book), sep="\n", file=sys.stderr if options.json else sys.stdout)
    if book.interrupted:
        return INTERRUPTED
    return {"PASS": SUCCESS, "FAIL": FAIL, "UNDECIDED": UNDECIDED, None: NOTHING_MEASURED}[book.verdict]


def _gate_request(options: argparse.Namespace) -> Any:
    from pyprod import gate as gate_
    from pyprod import workloads
    from pyprod.gate.revisions import WORKING_TREE

    cache = workloads.cache_dir() / "gate"
    head = options.head or WORKING_TREE
    return gate_.Request(options.base, head, options.suite, options.asv, Path(), options.out, cache)


def _gate_settings(options: argparse.Namespace, tolerance: float = 0.02) -> Any:
    """The settings asked for; `tolerance` of latency where none was."""
    from pyprod import gate as gate_

    _check_device(options)
    names = {field.name for field in fields(gate_.Settings)} - {"rule", "realtime"}
    given = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    asked = {name: getattr(options, name) for name in ("tolerance", "alpha", "beta")}
    rule = gate_.Rule(**{"tolerance": tolerance} | {name: risk for name, risk in asked.items() if risk is not None})
    return gate_.Settings(**given, realtime=options.realtime, rule=rule)


def _check_device(options: argparse.Namespace) -> None:
    """Said now, not row by row after two builds.

    Raises:
        PyprodError: there is no such device, or nothing that counts energy.
    """
    from pyprod.gpu import present, telemetry
    from pyprod.measure import energy

    on_gpu = options.device == "cuda"
    if on_gpu and (why := present.torch_device("cuda")):
        raise PyprodError(f"--device cuda: {why}")
    if options.energy_s:
        gpu = telemetry.gpu(present.uuid()) if on_gpu else None
        readable = bool(gpu and gpu.read().energy_j is not None) if on_gpu else energy.rapl() is not None
        if not readable:
            what = "this GPU's driver shows no energy" if on_gpu else "Linux shows no energy counters here (powercap)"
            raise PyprodError(f"--energy: {what}")


def _gate_options(verb: argparse.ArgumentParser) -> None:
    verb.epilog = (
        "Exit codes: 0 PASS, 1 FAIL (a row is worse than allowed, fails or is gone in HEAD), 2 usage, build or "
        "environment error, 3 UNDECIDED (too noisy for the budget), 4 nothing was compared, 130 interrupted."
    )
    verb.add_argument(
        "base",
        nargs="?",
        metavar="BASE",
        help="revision to compare with: a branch, tag or commit; or a record's folder",
    )
    verb.add_argument(
        "head", nargs="?", metavar="HEAD", help="revision (default: the working tree as it is) or record to judge"
    )
    verb.add_argument("--replay", type=Path, metavar="EVIDENCE", help="take the verdict again from a run's folder")
    verb.add_argument("--out", type=Path, default=Path("results/gate"), help="folder of runs (default: results/gate)")
    verb.add_argument(
        "--report",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="write .md, .json, .xml (JUnit), .sarif or .txt",
    )
    verb.add_argument("--annotate", choices=("auto", "github", "no"), default="auto", help="annotate a pull request")
    group = verb.add_argument_group("what to measure")
    group.add_argument("--suite", nargs="+", default=[], metavar="GLOB", help="files that define benchmarks")
    group.add_argument("--asv", action="store_true", help="the timing benchmarks of asv.conf.json's benchmark_dir")
    group.add_argument(
        "--select", nargs="+", metavar="PATTERN", help="only benchmarks that match, e.g. 'int8_linear/*'"
    )
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads of each side (default: 1)")
    group.add_argument("--device", choices=("cpu", "cuda"), help="where tensors are placed and time is taken")
    group.add_argument("--hot", dest="cold", action="store_false", default=None, help="on a GPU, leave the L2 cache be")
    group.add_argument(
        "--energy", dest="energy_s", type=_seconds, metavar="TIME", help="read joules over so long in each pair"
    )
    group = verb.add_argument_group("when to stop")
    group.add_argument("--budget", dest="budget_s", type=_seconds, metavar="TIME", help="of measuring (default: 60s)")
    group.add_argument("--timeout", dest="timeout_s", type=_seconds, metavar="TIME", help="of a stage (default: 60s)")
    group.add_argument("--tolerance", type=share, metavar="SHARE", help="slowdown allowed (2%%, of records 10%%)")
    group.add_argument("--throughput-tolerance", dest="throughput", type=share, metavar="SHARE", help="(default: 10%%)")
    group.add_argument("--memory-tolerance", dest="memory", type=share, metavar="SHARE", help="(default: 2%%)")
    group.add_argument("--size-tolerance", dest="size", type=share, metavar="SHARE", help="(default: 25%%)")
    group.add_argument("--accuracy-tolerance", dest="accuracy", type=share, metavar="SHARE", help="(default: 1%%)")
    group.add_argument("--output-tolerance", dest="output", type=share, metavar="SHARE", help="(default: 5%%)")
    group.add_argument("--energy-tolerance", dest="energy", type=share, metavar="SHARE", help="(default: 10%%)")
    group.add_argument("--alpha", type=share, metavar="RISK", help="that any row fails that is no slower (1%%)")
    group.add_argument("--beta", type=share, metavar="RISK", help="that a row passes in error (5%%)")
    group.add_argument("--seed", type=int, metavar="N", help="of order, addresses and data (default: 0)")
    group.add_argument("--no-realtime", dest="realtime", action="store_false", help="ask for no real-time scheduling")


def _seconds(text: str) -> float:
    """ "90", "90s", "1.5m"."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m", "h") else (text, "s")
    value = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value
