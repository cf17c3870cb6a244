"""The command ``pyprod``: one thin function per verb.

Exit codes: 0 success, 1 FAIL, 2 usage, build or environment error, 3 UNDECIDED, 4 nothing was measured; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyprod import __version__, environment
from pyprod.measure import report, store
from pyprod.measure.heat import Settings
from pyprod.types import PyprodError

SUCCESS, FAIL, ERROR, UNDECIDED, NOTHING_MEASURED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except PyprodError as error:
        print(f"pyprod: {error}", file=sys.stderr)
        return ERROR
    except BrokenPipeError:  # `pyprod list | head`
        sys.stderr.close()
        return SUCCESS


def parser() -> argparse.ArgumentParser:
    """The command line, verb by verb."""
    top = argparse.ArgumentParser(prog="pyprod", description="Which form of this model should run in production here?")
    top.add_argument("--version", action="version", version=f"pyprod {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = _verb(verbs, "list", list_, "what exists here, and what can't run here and why")
    verb.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="the device asked about (default: cpu)")

    verb = _verb(verbs, "env", env, "this machine, as it is stored with every record")
    verb.add_argument("--ceilings", action="store_true", help="measure instead what it can do at most (20 s)")

    verb = _verb(verbs, "bench", bench, "measure candidates: a record, a table and report.html")
    _selection(verb)
    _settings(verb)
    verb.add_argument("--suite", choices=("kernels",), help="measure the kernels against their peers instead of models")
    verb.add_argument("--out", type=Path, default=Path("results"), help="folder of records (default: results)")
    verb.add_argument("--resume", type=Path, metavar="RECORD", help="measure what this record still lacks")
    verb.add_argument("--sort", default="latency", metavar="COLUMN", help="column to sort the table by")

    verb = _verb(verbs, "report", report_, "tables and report.html of records")
    verb.add_argument("records", type=Path, nargs="+", metavar="RECORD", help="folder of a record")
    verb.add_argument("--sort", default="latency", metavar="COLUMN", help="column to sort the table by")
    verb.add_argument("--format", choices=report.FORMATS, help="write report.FORMAT into the record instead")
    verb.add_argument("--out", type=Path, metavar="FILE", help="write this file instead; its ending says the format")

    verb = _verb(
        verbs, "gate", gate, "did a change make it slower? compare two revisions; the exit code is the verdict"
    )
    _gate_options(verb)
    return top


def list_(options: argparse.Namespace) -> int:
    """Workloads and backends by name; for each that can't run here, the reason."""
    from pyprod import catalog  # imports torch and every backend: seconds that --help need not wait for

    rows = catalog.rows(options.device)
    if options.json:
        _print_json(rows)
        return SUCCESS
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("kind", "name", "what", "here"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        here = f"[yellow]no: {escape(row['unavailable'])}" if row["unavailable"] else f"[green]{escape(row['here'])}"
        table.add_row(row["kind"], row["name"], escape(row["what"]), here)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return SUCCESS


def env(options: argparse.Namespace) -> int:
    """The fingerprint, or the measured ceilings: a table, with --json both."""
    if not options.ceilings:
        _print_json(environment.fingerprint())
        return SUCCESS
    from pyprod import ceilings
    from pyprod.progress import Bar

    with Bar("measuring") as bar:
        found = ceilings.ceilings(bar)
    if options.json:
        _print_json(environment.fingerprint() | {"ceilings": found})
    else:
        print(ceilings.to_text(found))
    return SUCCESS


def bench(options: argparse.Namespace) -> int:
    """Measure, write the record, print the table."""
    if options.suite or (options.resume and _is_suite(options.resume)):
        return _bench_suite(options)
    from pyprod import bench as bench_
    from pyprod.progress import Bar

    report.resolve(options.sort)  # a misspelt column is said now, not in six minutes
    path = options.resume or bench_.create(bench_.Plan(_candidates(options), _chosen_settings(options)), options.out)
    interrupted = False
    try:
        with Bar("measuring") as bar:
            bench_.resume(path, bar)
    except KeyboardInterrupt:
        interrupted = True
    found = _read([path])
    for name in ("report.md", "report.html"):
        report.write(found.measurements, found.environment, found.plan, path / name)
    rows = report.summarize(found.measurements)
    if options.json:
        _print_json({"record": str(path), "rows": json.loads(rows.to_json(orient="records"))})
    else:
        print(report.to_text(rows, sort=options.sort))
        print(f"\nrecord  {path}\nreport  {path / 'report.html'}")
    return _finished(found, interrupted)


def _finished(found: store.Record, interrupted: bool) -> int:
    if interrupted:
        hint = f"what was measured is safe. Go on with: pyprod bench --resume {found.path}"
        print(f"pyprod: interrupted; {hint}", file=sys.stderr)
        return INTERRUPTED
    return SUCCESS if any(m.metric == "latency" for m in found.measurements) else NOTHING_MEASURED


def _bench_suite(options: argparse.Namespace) -> int:
    """The same for the suite of the kernels."""
    from pyprod.kernel_suite import report as tables
    from pyprod.kernel_suite import run
    from pyprod.progress import Bar

    path = options.resume or run.create(_suite_plan(options), options.out)
    interrupted = False
    try:
        with Bar("measuring") as bar:
            run.resume(path, bar)
    except KeyboardInterrupt:
        interrupted = True
    found = _read([path])
    for name in ("report.md", "report.csv"):
        tables.write(found.measurements, found.environment, found.plan, path / name)
    _print_suite(options, found)
    print(f"\nrecord  {path}\nreport  {path / 'report.md'}", file=sys.stderr if options.json else sys.stdout)
    return _finished(found, interrupted)


def _report_suite(options: argparse.Namespace) -> int:
    """The tables of one record of the suite, or a file in another format."""
    from pyprod.kernel_suite import report as tables

    if len(options.records) > 1:
        raise PyprodError("report records of the kernel suite one at a time: their rounds must not be paired")
    found = _read(options.records)
    if options.format or options.out:
        out = options.out or options.records[0] / f"report.{options.format}"
        tables.write(found.measurements, found.environment, found.plan, out, options.format or "")
        print(out)
    else:
        _print_suite(options, found)
    return SUCCESS if found.measurements else NOTHING_MEASURED


def _print_suite(options: argparse.Namespace, found: store.Record) -> None:
    from pyprod.kernel_suite import report as tables
    from pyprod.kernel_suite.frame import summarize

    frame = summarize(found.measurements, found.environment)
    print(tables.to_json(frame) if options.json else tables.to_text(frame), end="")


def _suite_plan(options: argparse.Namespace) -> Any:
    """What the command line asks of the suite: its own settings, but for those that were given.

    Raises:
        PyprodError: an option that the suite has no use for was given.
    """
    from pyprod import bench as bench_
    from pyprod.kernel_suite import run

    if options.workload or options.full or options.device != ["cpu"]:
        raise PyprodError("--suite takes neither --workload, --full nor --device; narrow it by patterns: 'linear/*'")
    chosen = run.select(
        options.patterns,
        backend_names=options.backend,
        batches=options.batch or (),
        threads=options.threads or run.THREADS,
    )
    given = {f.name: getattr(options, f.name) for f in fields(Settings) if getattr(options, f.name) != f.default}
    return bench_.Plan(chosen, replace(run.SETTINGS, **given))


def _is_suite(path: Path) -> bool:
    return bool(store.read(path).plan.get("suite"))


def report_(options: argparse.Namespace) -> int:
    """Print the table of one or more records, or write it in another format."""
    if any(map(_is_suite, options.records)):
        return _report_suite(options)
    found = _read(options.records)
    if options.format or options.out:
        out = options.out or options.records[0] / f"report.{options.format}"
        report.write(found.measurements, found.environment, found.plan, out, options.format or "")
        print(out)
    elif options.json:
        _print_json(json.loads(report.summarize(found.measurements).to_json(orient="records")))
    else:
        print(report.to_text(report.summarize(found.measurements), sort=options.sort))
    return SUCCESS if found.measurements else NOTHING_MEASURED


def gate(options: argparse.Namespace) -> int:
    """Compare two revisions, or take a verdict again from its evidence."""
    from pyprod import gate as gate_
    from pyprod.gate import report as formats
    from pyprod.progress import Share

    for path in options.report:
        formats.check(path)
    if options.replay:
        book, folder = gate_.replay(options.replay), None
    elif options.base is None:
        raise PyprodError("which revision is BASE? e.g. pyprod gate main (the working tree against main)")
    else:
        with Share("gate") as share:
            book, folder = gate_.compare(_gate_request(options), _gate_settings(options), share)
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
    return gate_.Request(options.base, options.head or WORKING_TREE, options.suite, Path(), options.out, cache)


def _gate_settings(options: argparse.Namespace) -> Any:
    from pyprod import gate as gate_

    names = {field.name for field in fields(gate_.Settings)} - {"rule", "realtime"}
    given = {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}
    rule = gate_.Rule(tolerance=options.tolerance, alpha=options.alpha, beta=options.beta)
    return gate_.Settings(**given, realtime=options.realtime, rule=rule)


def _gate_options(verb: argparse.ArgumentParser) -> None:
    verb.epilog = (
        "Exit codes: 0 PASS, 1 FAIL (a row is worse than allowed, fails or is gone in HEAD), 2 usage, build or "
        "environment error, 3 UNDECIDED (too noisy for the budget), 4 nothing was compared, 130 interrupted."
    )
    verb.add_argument("base", nargs="?", metavar="BASE", help="revision to compare with: a branch, tag or commit")
    verb.add_argument("head", nargs="?", metavar="HEAD", help="revision to judge (default: the working tree as it is)")
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
    group.add_argument(
        "--select", nargs="+", metavar="PATTERN", help="only benchmarks that match, e.g. 'int8_linear/*'"
    )
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads of each side (default: 1)")
    group = verb.add_argument_group("when to stop")
    group.add_argument("--budget", dest="budget_s", type=_seconds, metavar="TIME", help="of measuring (default: 60s)")
    group.add_argument("--timeout", dest="timeout_s", type=_seconds, metavar="TIME", help="of a stage (default: 60s)")
    group.add_argument(
        "--tolerance", type=_share, default=0.02, metavar="SHARE", help="slowdown allowed (default: 2%%)"
    )
    group.add_argument(
        "--throughput-tolerance", dest="throughput", type=_share, metavar="SHARE", help="(default: 10%%)"
    )
    group.add_argument("--memory-tolerance", dest="memory", type=_share, metavar="SHARE", help="(default: 2%%)")
    group.add_argument("--size-tolerance", dest="size", type=_share, metavar="SHARE", help="(default: 25%%)")
    group.add_argument("--output-tolerance", dest="output", type=_share, metavar="SHARE", help="(default: 5%%)")
    group.add_argument(
        "--alpha", type=_share, default=0.05, metavar="RISK", help="of a false alarm in the whole suite (default: 5%%)"
    )
    group.add_argument(
        "--beta", type=_share, default=0.05, metavar="RISK", help="that a row passes in error (default: 5%%)"
    )
    group.add_argument("--seed", type=int, metavar="N", help="of order, addresses and data (default: 0)")
    group.add_argument("--no-realtime", dest="realtime", action="store_false", help="ask for no real-time scheduling")


def _seconds(text: str) -> float:
    """ "90", "90s", "1.5m"."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m", "h") else (text, "s")
    value = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _share(text: str) -> float:
    """ "2%" or "0.02"."""
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:])
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=run)
    return verb


def _selection(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("what to measure")
    group.add_argument("patterns", nargs="*", metavar="PATTERN", help="only ids that match, e.g. 'encoder/*/onnx*'")
    group.add_argument("--full", action="store_true", help="every workload, at batches 1, 8 and 32")
    group.add_argument("--workload", nargs="+", metavar="NAME", help="names, or file.py:function for a model of yours")
    group.add_argument("--backend", nargs="+", default=[], metavar="NAME", help="family.variant, or a whole family")
    group.add_argument("--device", nargs="+", default=["cpu"], choices=("cpu", "cuda"))
    group.add_argument("--batch", nargs="+", type=int, metavar="N", help="samples per call (default: 1)")
    group.add_argument("--threads", nargs="+", type=int, metavar="N", help="CPU threads (default: 1; suite: 1 2)")


def _settings(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("how to measure")
    words = {
        "rounds": "interleaved rounds",
        "slice_s": "seconds a candidate is timed per round",
        "max_samples": "most calls per slice",
        "warmup_s": "longest warm-up, seconds",
        "timeout_s": "a stage that takes longer has hung, seconds",
        "budget_s": "no further round after so many seconds of timing, once there are 5",
        "seed": "of the order within rounds",
    }
    for field in fields(Settings):
        name = "--" + field.name.removesuffix("_s").replace("_", "-")
        kind = type(field.default)
        help_ = f"{words[field.name]} (default: {field.default})"
        group.add_argument(name, dest=field.name, type=kind, default=field.default, help=help_, metavar="N")


def _candidates(options: argparse.Namespace) -> tuple[Any, ...]:
    from pyprod import bench as bench_
    from pyprod import workloads

    everything = workloads.known() if options.full else list(bench_.DEFAULT_WORKLOADS)
    batches = bench_.FULL_BATCHES if options.full else (1,)
    return bench_.select(
        options.patterns,
        workload_names=options.workload or everything,
        backend_names=options.backend,
        devices=options.device,
        batches=options.batch or batches,
        threads=options.threads or (1,),
    )


def _chosen_settings(options: argparse.Namespace) -> Settings:
    return Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})


def _read(paths: Sequence[Path]) -> store.Record:
    """Records merged into one; one that can't be read is named and skipped, unless it is the only one."""
    records = []
    for path in paths:
        try:
            records.append(store.read(path))
        except PyprodError as error:
            if len(paths) == 1:
                raise
            print(f"pyprod: warning: skipped: {error}", file=sys.stderr)
    if not records:
        raise PyprodError("none of the records could be read")
    for warning in (w for record in records for w in record.warnings):
        print(f"pyprod: warning: {warning}", file=sys.stderr)
    measurements = tuple(m for record in records for m in record.measurements)
    return store.Record(records[0].path, records[0].environment, records[0].plan, measurements, ())


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))
