"""The verb ``export``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from pyprod.cli.common import ERROR, FAIL, SUCCESS, add_verb, print_json, share


def add_to(verbs: Any) -> None:
    """Add the verb to the command line."""
    verb = add_verb(verbs, "export", export, "a model as files for production, held against the model step by step")
    verb.add_argument("workload", metavar="WORKLOAD", help="a name of `pyprod list`, or path/to/file.py:function")
    verb.add_argument("--recipe", default="base", help="what `pyprod ship` made (default: the model as it is)")
    verb.add_argument(
        "--format", nargs="+", default=["onnx"], metavar="FORMAT", help="onnx, onnx_fused, onnx_native, onnx_qdq, "
        "onnx_static, torchscript, aotinductor, safetensors, or all (default: onnx)"
    )  # fmt: skip
    verb.add_argument("--out", type=Path, default=Path("exported"), help="folder of the files (default: exported)")
    verb.add_argument("--opset", type=int, help="of ONNX (default: 20)")
    verb.add_argument("--fixed", action="store_true", help="leave no size open but the batch")
    verb.add_argument(
        "--external-data", action="store_true", help="weights of ONNX in a file of their own, at any size"
    )
    verb.add_argument("--rows", type=int, default=64, help="real rows to compare on (default: 64)")
    verb.add_argument("--shapes", type=int, default=20, help="random inputs of random sizes, too (default: 20)")
    verb.add_argument(
        "--accuracy-drop", type=share, default=0.005, metavar="SHARE", help="of the metric, what onnx_static may lose "
        "(default: 0.5%%)"
    )  # fmt: skip
    verb.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    verb.add_argument("--check", type=Path, metavar="FILE.onnx", help="write nothing: hold this file against the model")


def export(options: argparse.Namespace) -> int:
    """Exit code 1 where a file is not the model, 2 where one can't be made."""
    from pyprod import files
    from pyprod.export import deliver, onnx_file
    from pyprod.progress import Bar

    settings = files.Settings(
        options.opset or onnx_file.OPSET,
        options.fixed,
        options.external_data or None,
        options.rows,
        options.shapes,
        options.threads,
        options.accuracy_drop,
    )
    names = sorted(deliver.formats()) if options.format == ["all"] else options.format
    with Bar("exporting") as bar:
        bar.planned((1 if options.check else len(names)) * files.steps(settings))
        if options.check:
            delivery = files.check(options.workload, options.recipe, options.check, settings, bar.step)
            found = [files.Outcome("onnx", delivery, "; ".join(delivery.problems[:1]))]
        else:
            found = files.write(options.workload, options.recipe, names, options.out, settings, bar.step)
    if options.json:
        print_json([
            {"format": o.format, "problem": o.problem} | (o.delivery.to_json() if o.delivery else {}) for o in found
        ])  # fmt: skip
    else:
        show(found, Console(width=None if sys.stdout.isatty() else 120))
    missing = [outcome for outcome in found if outcome.delivery is None]
    if len(missing) == len(found) or any(not outcome.unsuited or options.format != ["all"] for outcome in missing):
        return ERROR
    return FAIL if any(outcome.delivery and outcome.problem for outcome in found) else SUCCESS


def _left_out(facts: Any, console: Console) -> None:
    """Which roundings a static quantization could not afford."""
    loss, out = facts["loss"], facts["left_out"]
    console.print(
        f"{facts['roundings']} roundings lose {loss['all_roundings']:.2%} of the metric; "
        f"without the {len(out)} most harmful {loss['without_these']:.2%}"
    )
    for rounding in out[:10]:
        where = f" in {rounding['module']}" if rounding["module"] else ""
        console.print(f"  {rounding['step']}{where} ({rounding['tensor']}): alone off by {rounding['error']:.1%}")


def show(found: Sequence[Any], console: Console) -> None:
    """A row per file, then what is wrong with it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("format", "file", "MB", "open", "steps", "worst step", "outputs off by"):
        justify: JustifyMethod = "right" if heading in ("MB", "steps", "worst step", "outputs off by") else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    for outcome in found:
        made = outcome.delivery
        if made is None:
            continue
        ledger = made.ledger
        size, opened = f"{made.facts['bytes'] / 1e6:.2f}", ", ".join(made.facts["open"])
        steps, worst = ("", "") if ledger is None else (str(len(ledger.steps)), f"{ledger.largest.error:.1g}")
        largest = max(made.parity, key=lambda p: p.error)
        runtimes = len({p.reader for p in made.parity})
        outputs = f"{largest.error:.1g} in {runtimes} runtimes" if runtimes > 1 else f"{largest.error:.1g}"
        table.add_row(outcome.format, str(made.path), size, opened, steps, worst, outputs)
    if table.row_count:
        console.print(table)
    for outcome in found:
        if outcome.problem:
            console.print(f"[{'dim' if outcome.unsuited else 'red'}]{outcome.format}: {escape(outcome.problem)}")
        if outcome.delivery:
            for line in outcome.delivery.problems[:10]:
                console.print(f"  {escape(line)}")
        if outcome.delivery and "left_out" in outcome.delivery.facts:
            _left_out(outcome.delivery.facts, console)
        for name, why in (outcome.delivery.facts["fixed"] if outcome.delivery else {}).items():
            console.print(f"[yellow]{outcome.format}: {name} is fixed to the example's size: {escape(why)}")
