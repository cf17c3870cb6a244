"""From a recipe file to a form that can be shipped: make every recipe, measure all of them side by side, choose."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pyprod import backends, bench, files, recipes, workloads
from pyprod.measure import choose, heat, store
from pyprod.measure.choose import Choice
from pyprod.measure.heat import Settings
from pyprod.recipes import RecipeFile
from pyprod.types import Candidate, Measurement, PyprodError

CHOICE = "choice.json"
FILES = "files"


@dataclass(frozen=True)
class Shipped:
    """What came of a recipe file.

    Attributes:
        record: folder of the measurements; ``choice.json`` in it has the rest.
        choices: one per batch and thread count.
        digests: by recipe, the digest of its model.
        failed: by recipe that could not be made, why.
        files: what was written of the chosen recipes, by recipe; a row per format.
    """

    record: Path
    choices: Sequence[Choice]
    digests: Mapping[str, str]
    failed: Mapping[str, str]
    files: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


def ship(file: RecipeFile, out: Path, progress: heat.Progress, settings: Settings | None = None) -> Shipped:
    """Make, measure, choose. What was done before is not done again; killed, it goes on where it was.

    Args:
        out: folder of records.
        settings: how to measure; by default with the file's number of rounds.

    Raises:
        PyprodError: the file asks for what there is not, or no recipe could be made.
    """
    digests, failed = _make_all(file, progress)
    plan = bench.Plan(_candidates(file, digests), settings or Settings(rounds=file.bench.rounds))
    record = _known(plan, digests)
    if record is None:
        record = bench.create(plan, out)
        _remember(plan, digests, record)
    before = store.read(record)
    if not _complete(before.measurements, plan):
        bench.resume(record, progress)
        before = store.read(record)
    choices = choose.choose(before.measurements, file.demands, file.prefer)
    chosen = {Candidate.from_id(choice.chosen).recipe for choice in choices if choice.chosen}
    written = {name: _write(file, name, digests[name], record, progress) for name in sorted(chosen) if file.formats}
    found = Shipped(record, choices, digests, failed, written)
    store.write_atomically(record / CHOICE, json.dumps(to_json(found, file), indent=1) + "\n")
    return found


def to_json(found: Shipped, file: RecipeFile) -> dict[str, Any]:
    """The decision with all it rests on."""
    return {
        "record": found.record.name,
        "workload": file.workload,
        "recipes": {name: [{"step": s.name, **s.arguments} for s in steps] for name, steps in file.recipes.items()},
        "digests": dict(found.digests),
        "failed": dict(found.failed),
        "require": dict(file.demands),
        "prefer": file.prefer,
        "choices": [asdict(choice) for choice in found.choices],
        "files": dict(found.files),
    }


def _write(file: RecipeFile, name: str, digest: str, record: Path, progress: heat.Progress) -> list[dict[str, Any]]:
    """The recipe's files in the record, a row each; not written again if they are there, of this very model."""
    folder = record / FILES
    known = folder / f".{name}-{digest}.json"
    if known.is_file():
        rows: list[dict[str, Any]] = json.loads(known.read_text())
        whole = all(not row["file"] or (folder / row["file"]).is_file() for row in rows)
        if whole and [row["format"] for row in rows] == list(file.formats):
            return rows
    settings = files.Settings()
    progress.planned(len(file.formats) * files.steps(settings))
    outcomes = files.write(file.workload, name, file.formats, folder, settings, progress.step)
    rows = [
        {
            "format": outcome.format,
            "problem": outcome.problem,
            "file": outcome.delivery.path.name if outcome.delivery and not outcome.problem else "",
            "sha256": outcome.delivery.facts["sha256"] if outcome.delivery else "",
        }
        for outcome in outcomes
    ]
    if not any(row["problem"] for row in rows):  # what failed is tried again
        store.write_atomically(known, json.dumps(rows, indent=1) + "\n")
    return rows


def _make_all(file: RecipeFile, progress: heat.Progress) -> tuple[dict[str, str], dict[str, str]]:
    """Digest by recipe, and why of those that can't be made. One that fails does not keep the others."""
    digests, failed = {}, {}
    for steps in file.recipes.values():
        recipes.check(steps)
    progress.planned(len(file.recipes))
    for name, steps in file.recipes.items():
        try:
            digests[name] = recipes.make(file.workload, name, steps, progress.step)
        except PyprodError as error:
            failed[name] = str(error)
    if digests.keys() <= {"base"} and failed:
        raise PyprodError("; ".join(f"recipe {name}: {why}" for name, why in failed.items()))
    return digests, failed


def _candidates(file: RecipeFile, digests: Mapping[str, str]) -> tuple[Candidate, ...]:
    """A recipe that ends in a QuantSpec is run by what lowers one: elsewhere it would be another form under its name.

    Raises:
        PyprodError: there is a recipe that none of the backends lowers.
    """
    how = file.bench
    found = bench.select(
        workload_names=[file.workload],
        recipe_names=list(digests),
        backend_names=how.backends,
        devices=[how.device],
        batches=how.batch,
        threads=how.threads,
    )
    specs = {name: spec for name in digests if (spec := recipes.quantspec_of(file.workload, name)) is not None}
    kept = tuple(c for c in found if c.recipe not in specs or backends.lowers(c.backend, specs[c.recipe]))
    if left := specs.keys() - {c.recipe for c in kept}:
        raise PyprodError(
            f"recipe {', '.join(sorted(left))}: none of [bench] backends runs its QuantSpec; add native.int8"
        )
    return kept


def _complete(measurements: Sequence[Measurement], plan: bench.Plan) -> bool:
    ended = {m.candidate for m in measurements if m.failure or m.metric == "peak_rss"}
    return ended >= set(plan.candidates)


def _key(plan: bench.Plan, digests: Mapping[str, str]) -> Path:
    about = json.dumps([[c.id for c in plan.candidates], asdict(plan.settings), dict(sorted(digests.items()))])
    return workloads.cache_dir() / "ship" / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.json"


def _known(plan: bench.Plan, digests: Mapping[str, str]) -> Path | None:
    """The record that has these candidates of these very models."""
    path = _key(plan, digests)
    record = Path(json.loads(path.read_text())["record"]) if path.is_file() else None
    return record if record and record.is_dir() else None


def _remember(plan: bench.Plan, digests: Mapping[str, str], record: Path) -> None:
    path = _key(plan, digests)
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_atomically(path, json.dumps({"record": str(record.resolve())}) + "\n")
