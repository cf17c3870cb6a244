"""The verbs ``bench`` and ``report``, of models and of the suite of the kernels."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pyprod.cli.common import INTERRUPTED, NOTHING_MEASURED, SUCCESS, add_verb, print_json, read_records
from pyprod.measure import store
from pyprod.measure.heat import Settings
from pyprod.types import PyprodError


def add_to(verbs: Any) -> None:
    """Add both verbs to the command line."""
    verb = add_verb(verbs, "bench", bench, "measure candidates: a record, a table and report.html")
    _selection(verb)
    _settings(verb)
    verb.add_argument("--suite", choices=("kernels",), help="measure the kernels against their peers instead of models")
    verb.add_argument("--out", type=Path, default=Path("results"), help="folder of records (default: results)")
    verb.add_argument("--resume", type=Path, metavar="RECORD", help="measure what this record still lacks")
    verb.add_argument("--sort", default="latency", metavar="COLUMN", help="column to sort the table by")

    verb = add_verb(verbs, "report", report_, "tables and report.html of records")
    verb.add_argument("records", type=Path, nargs="+", metavar="RECORD", help="folder of a record")
    verb.add_argument("--sort", default="latency", metavar="COLUMN", help="column to sort the table by")
    verb.add_argument("--format", help="write report.FORMAT instead: csv, html, json, md, parquet, txt")
    verb.add_argument("--out", type=Path, metavar="FILE", help="write this file instead; its ending says the format")


def bench(options: argparse.Namespace) -> int:
    """Measure, write the record, print the table."""
    if options.suite or (options.resume and _is_suite(options.resume)):
        return _bench_suite(options)
    from pyprod import bench as bench_
    from pyprod.measure import report
    from pyprod.progress import Bar

    report.resolve(options.sort)  # a misspelt column is said now, not in six minutes
    path = options.resume or bench_.create(bench_.Plan(_candidates(options), _chosen_settings(options)), options.out)
    interrupted = False
    try:
        with Bar("measuring") as bar:
            bench_.resume(path, bar)
    except KeyboardInterrupt:
        interrupted = True
    found = read_records([path])
    for name in ("report.md", "report.html"):
        report.write(found.measurements, found.environment, found.plan, path / name)
    rows = report.summarize(found.measurements)
    if options.json:
        print_json({"record": str(path), "rows": json.loads(rows.to_json(orient="records"))})
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
    found = read_records([path])
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
    found = read_records(options.records)
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
    from pyprod.measure import report  # pandas and scipy: two seconds that --help need not wait for

    found = read_records(options.records)
    if options.format or options.out:
        out = options.out or options.records[0] / f"report.{options.format}"
        report.write(found.measurements, found.environment, found.plan, out, options.format or "")
        print(out)
    elif options.json:
        print_json(json.loads(report.summarize(found.measurements).to_json(orient="records")))
    else:
        print(report.to_text(report.summarize(found.measurements), sort=options.sort))
    return SUCCESS if found.measurements else NOTHING_MEASURED


def _selection(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("what to measure")
    group.add_argument("patterns", nargs="*", metavar="PATTERN", help="only ids that match, e.g. 'encoder/*/onnx*'")
    group.add_argument("--full", action="store_true", help="every workload, at batches 1, 8 and 32")
    group.add_argument("--workload", nargs="+", metavar="NAME", help="names, or file.py:function for a model of yours")
    group.add_argument(
        "--recipe", nargs="+", default=["base"], metavar="NAME", help="what pyprod ship made (default: base)"
    )
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
        recipe_names=options.recipe,
        backend_names=options.backend,
        devices=options.device,
        batches=options.batch or batches,
        threads=options.threads or (1,),
    )


def _chosen_settings(options: argparse.Namespace) -> Settings:
    return Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
