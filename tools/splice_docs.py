"""Put measured tables into README.md and docs/, from the newest committed record that has them.

A block is a pair of comments, ``<!-- measured: WORKLOAD/DEVICE/bN/tN -->`` and ``<!-- /measured -->``; what stands
between them is made from ``results/``. ``<!-- measured: kernels:TITLE -->``, with ``~`` for blanks,
takes those tables of the kernel suite whose titles begin so, ``kernels@RECORD:TITLE`` those of one record;
``<!-- measured: gate-nulls -->`` takes those of the newest study of the gate of that name, and every other name
those of its study (`_STUDIES`); ``<!-- measured: records:BASE:HEAD:GLOB -->`` the comparison of two
records; ``<!-- measured: forms:WORKLOAD/... -->`` a cohort that ``pyprod ship`` measured.

Without arguments it writes; with ``--check`` it fails when a file would change.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import sys
import tempfile
from functools import cache, partial
from pathlib import Path

import pandas as pd

from pyprod import gate
from pyprod.gate import records
from pyprod.gate.report import markdown as gate_markdown
from pyprod.kernel_suite import report as kernel_report
from pyprod.measure import report, store

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # run as a script: tools/ is no package

from tools import (  # noqa: E402
    choose_tables,
    cuda_resources,
    export_tables,
    forms_tables,
    gpu_check,
    perplexity_tables,
    pruned_tables,
    training_tables,
)
from tools.gate_study import run as gate_runs  # noqa: E402
from tools.gate_study import tables as gate_tables  # noqa: E402

BLOCK = re.compile(r"(<!-- measured: (?P<cohort>\S+) -->\n).*?(<!-- /measured -->)", re.DOTALL)


def cohort_table(cohort: str, results: Path, folder: str = "") -> str:
    """Markdown of one cohort's rows from the newest record in `folder` of `results` that has measured it.

    Raises:
        LookupError: no record has it.
    """
    for record in map(_read, _paths(results / folder)):
        rows = [m for m in record.measurements if "{}/{}/b{}/t{}".format(*m.candidate.cohort) == cohort]
        if any(m.metric == "latency" for m in rows):
            table = report.to_markdown_tables(report.summarize(rows))
            return f"{table}\n{caption(record, results)}\n"
    raise LookupError(f"no record under {results / folder} has measured {cohort}")


def kernel_tables(title: str, results: Path, name: str = "") -> str:
    """Markdown of the kernel suite's tables whose titles begin with `title`, from record `name` or the newest."""
    found = _newest_kernels((results / name,) if name else _paths(results))
    if found is None:
        return "*Not measured yet.*\n"
    record, frame = found
    return f"{kernel_report.to_markdown_tables(frame, [title])}\n{caption(record, results)}\n"


@cache  # nine blocks show one record
def _newest_kernels(paths: tuple[Path, ...]) -> tuple[store.Record, pd.DataFrame] | None:
    for record in map(_read, paths):
        if record.plan.get("suite") == "kernels":
            return record, kernel_report.summarize(record.measurements, record.environment)
    return None


def gate_study(kind: str, results: Path) -> str:
    """Markdown of the newest study of the gate's errors whose folder's name ends with `kind`."""
    found = sorted((results / "gate-study").glob(f"*-{kind}/{gate_runs.PLAN}"))
    if not found:
        return "*Not measured yet.*\n"
    folder = found[-1].parent
    plan, machine = (json.loads((folder / name).read_text()) for name in (gate_runs.PLAN, gate_runs.ENVIRONMENT))
    tables = gate_tables.to_markdown(plan, gate_runs.read(folder))
    path = f"results/gate-study/{folder.name}"
    return (
        f"{tables}\n\n*{machine['cpu']['model']}, a shared virtual machine with {len(machine['cpu']['allowed'])} CPUs, "
        f"{plan['load']} processes of other work beside each gate, budget {plan['budget']}, "
        f"tolerance {plan['tolerance']}; raw samples in [{path}](../{path}). Intervals: Clopper and Pearson, 95%.*\n"
    )


def compared_records(which: str, results: Path) -> str:
    """Markdown of ``pyprod gate BASE HEAD`` of two records, the rows that match a glob: "BASE:HEAD:GLOB"."""
    base, head, pattern = which.split(":")
    with tempfile.TemporaryDirectory() as folder:
        settings = gate.Settings(rule=gate.Rule(tolerance=records.TOLERANCE))
        book, _ = gate.compare_records(results / base, results / head, settings, Path(folder))
    for key in [key for key in book.rows if not fnmatch.fnmatch(key[0], pattern)]:
        del book.rows[key]
    table = gate_markdown.table(book)
    command = f"pyprod gate results/{base} results/{head}"
    return (
        f"{table}\n\n{caption(store.read(results / head), results)}\n\n"
        f"*Compared by `{command}`: {records.NOTE}. HEAD's latencies are scaled "
        "to the speed that BASE's record found the baseline at.*\n"
    )


def _paths(results: Path) -> tuple[Path, ...]:
    """Newest first."""
    return tuple(sorted((path.parent for path in results.glob(f"*/{store.PLAN}")), reverse=True))


_read = cache(store.read)  # each block looks through them


def caption(record: store.Record, results: Path) -> str:
    """Which machine, versions and command the numbers are from."""
    versions = record.environment["packages"]
    names = ("torch", "onnxruntime-gpu", "openvino", "torchao")
    software = ", ".join(f"{name} {versions[name]}" for name in names if versions.get(name))
    cpu = record.environment["cpu"]["model"]
    path = f"results/{record.path.relative_to(results)}"
    command = " ".join(record.plan["command"])
    return f"*{cpu}, a shared virtual machine; {software}; `{command}`; raw samples in [{path}]({path}).*"


def spliced(text: str, results: Path) -> str:
    """`text` with every block made anew."""

    def made(block: re.Match[str]) -> str:
        kind, _, which = block["cohort"].partition(":")
        if kind == "records":
            return compared_records(which, results)
        if block["cohort"] in _STUDIES:
            return _STUDIES[block["cohort"]](results)
        if kind == "forms" and which:
            return cohort_table(which, results, "forms")
        suite, _, name = kind.partition("@")
        if suite == "kernels":
            return kernel_tables(which.replace("~", " "), results, name)
        return cohort_table(block["cohort"], results)

    return BLOCK.sub(lambda m: m[1] + "\n" + made(m) + "\n" + m[3], text)


#: Tables that a folder of results/ makes by itself.
_STUDIES = {
    "gate-nulls": partial(gate_study, "nulls"),
    "gate-power": partial(gate_study, "power"),
    "gate-quiet": partial(gate_study, "quiet"),
    "gate-rivals": partial(gate_study, "rivals"),
    "export-faults": export_tables.faults,
    "export-parity": export_tables.parity,
    "training-distill": training_tables.distill,
    "training-bfloat16": training_tables.bfloat16,
    "training-qat": training_tables.qat,
    "export-rounded": export_tables.rounded,
    "export-static": export_tables.static,
    "export-attention": export_tables.attention,
    "choose-study": choose_tables.study,
    "cuda-resources": cuda_resources.table,
    "forms": forms_tables.table,
    "perplexity": perplexity_tables.table,
    "pruned": pruned_tables.table,
    "gpu-check": gpu_check.newest,
}


def main() -> int:
    """Write or check every Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something would change")
    check = parser.parse_args().check
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        before = path.read_text()
        after = spliced(before, ROOT / "results")
        if after != before:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                store.write_atomically(path, after)
    if stale:
        print(("stale: " if check else "wrote: ") + ", ".join(stale))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
