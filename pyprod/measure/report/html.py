"""The report as one HTML file that needs no network: tables, plots drawn as SVG, environment, biases.

The plots are templates over `charts`' geometry and not a plotting library: the file is a twentieth of one with an
inlined library, prints, follows the theme by CSS alone, and shows everything with scripts off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pyprod.measure import statistics
from pyprod.measure.report import cells, charts, digits, facts
from pyprod.measure.report.biases import BIASES, HOW_TAKEN
from pyprod.measure.report.columns import COLUMNS
from pyprod.measure.report.frame import COHORT, Record, summarize
from pyprod.types import Candidate, Measurement

_TEMPLATES = Path(__file__).parent / "templates"
#: A workload with more cohorts than this shows the first open and the others folded.
_OPEN = 2


def to_html(measurements: Sequence[Measurement], environment: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        environment: the machine's fingerprint, nested JSON values of any shape; `cpu.model`, `packages.torch`,
            `commit.revision`, `commit.dirty` and `date` are shown on top where they are.
        plan: settings of the run, nested JSON values; `command` is what was typed.
    """
    frame, record = summarize(measurements), Record(measurements)
    page = {
        "title": _title(frame),
        "headline": facts.headline(environment),
        "command": facts.command(plan),
        "environment": list(facts.flatten(dict(environment))),
        "plan": facts.settings(plan),
        "counts": _counts(frame),
        "trust": _trust(frame),
        "workloads": [_workload(str(name), rows, record) for name, rows in frame.groupby("workload")],
        "failures": _failures(frame),
        "how_taken": HOW_TAKEN,
        "biases": BIASES,
        "limits": statistics.AA_LIMITS,
        "kinds": sorted({_numerics(kind) for kind in frame["numerics"] if kind}),
        "meaning": {name: column.meaning for name, column in COLUMNS.items()},
    }
    return _environment().get_template("report.html").render(page)


def _environment() -> Environment:
    jinja = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.globals.update(digits=digits, numerics=_numerics, asset=_asset)
    return jinja


def _asset(name: str) -> Markup:
    """Our own style sheet or script, as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def _numerics(name: str) -> str:
    """The arithmetic as a CSS class and symbol: what is not known is "other"."""
    return name if name in ("float32", "bfloat16", "float16", "int8") else "other"


def _title(frame: pd.DataFrame) -> str:
    """ "digits and encoder in 15 forms"."""
    names = sorted(set(frame["workload"]))
    if not names:
        return "Nothing was measured"
    listed = (
        f"{len(names)} workloads" if len(names) > 3 else " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    )
    return f"{listed} in {digits.count(frame['form'].nunique(), 'form')}"


def _counts(frame: pd.DataFrame) -> str:
    ok = int((frame["status"] == "ok").sum())
    return f"{digits.count(ok, 'candidate')} measured, {len(frame) - ok} without a number"


def _trust(frame: pd.DataFrame) -> dict[str, Any]:
    """How many cohorts passed their A/A check; the level is that of the worst."""
    verdicts = frame.drop_duplicates(COHORT)["cohort_trust"].tolist()
    levels = [level for level in ("untrustworthy", "unchecked", "trustworthy") if level in verdicts]
    passed = verdicts.count("trustworthy")
    return {"level": (levels or ["unchecked"])[0], "passed": passed, "of": len(verdicts)}


def _workload(name: str, rows: pd.DataFrame, record: Record) -> dict[str, Any]:
    cohorts = [_cohort(cohort, record) for _, cohort in rows.groupby(COHORT)]
    for index, cohort in enumerate(cohorts):
        cohort["open"] = len(cohorts) <= _OPEN or index == 0
    batches = [
        {"label": _where(forms.iloc[0]), "plot": charts.throughput(forms)}
        for _, forms in rows.groupby(["device", "threads"])
    ]
    return {
        "name": name,
        "anchor": _anchor(name),
        "sample": rows["sample"].iloc[0],
        "statistic": (cells.statistic(rows) or ["accuracy not measured"])[0],
        "examples": int(rows["accuracy_n"].max()) if rows["accuracy_n"].notna().any() else 0,
        "baseline": next(iter(rows.loc[rows["baseline"], "form"]), ""),
        "cohorts": cohorts,
        "batches": [batch for batch in batches if batch["plot"]],
    }


def _cohort(cohort: pd.DataFrame, record: Record) -> dict[str, Any]:
    first = cohort.iloc[0]
    samples = {name: _milliseconds(record, name) for name in cohort["candidate"]}
    ok = cohort[cohort["status"] == "ok"]
    label = f"batch {first['batch']}, {_where(first)}"
    return {
        "label": label,
        "anchor": _anchor(f"{first['workload']} {label}"),
        "trust": first["cohort_trust"],
        "aa_ratio": first["cohort_aa_ratio"],
        "best": _best(ok),
        "rate": cells.rate_column(first["statistic"]),
        "rows": ok.to_dict("records"),
        "failures": [row | {"reason": cells.reason(pd.Series(row))} for row in _failed(cohort).to_dict("records")],
        "notes": [(row["form"], row["notes"]) for row in ok.to_dict("records") if row["notes"]],
        "peaks": {name: ok[name].max() for name in ("build_s", "first_call_s", "peak_rss_mb", "artifact_mb")},
        "memory": "gpu_memory_mb" if first["device"] == "cuda" else "pss_mb",
        "latencies": charts.latencies(ok, samples),
        "speedups": charts.speedups(ok),
        "pareto": charts.pareto(ok),
    }


def _milliseconds(record: Record, candidate: str) -> list[float]:
    return [sample * 1e-6 for sample in record.pooled(Candidate.from_id(candidate), "latency")]


def _failed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["status"] != "ok"]


def _best(ok: pd.DataFrame) -> dict[str, Any] | None:
    """The fastest form that keeps its accuracy; where none was scored, the fastest."""
    kept = ok[ok["accuracy_verdict"] == "kept"]
    pool = kept if ok["accuracy"].notna().any() else ok
    fastest = pool.sort_values("latency_p50_ms").to_dict("records")
    return {str(name): value for name, value in fastest[0].items()} if fastest else None


def _failures(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Each failure once, with all the cohorts it hit."""
    same = ["workload", "form", "status", "failure_stage", "failure_message", "failure_detail"]
    out = []
    for (workload, form, *_), rows in _failed(frame).groupby(same, sort=False):
        where = [f"batch {row['batch']}, {_where(row)}" for _, row in rows.iterrows()]
        first = rows.iloc[0]
        found = {"workload": workload, "form": form, "reason": cells.reason(first), "where": where}
        out.append(found | {"detail": first["failure_detail"]})
    return out


def _where(row: pd.Series[Any]) -> str:
    return f"{digits.count(row['threads'], 'thread')}, {row['device']}"


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
