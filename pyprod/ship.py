"""From a recipe file to a form that can be shipped: make every recipe, measure all of them side by side, choose."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyprod import bench, recipes, workloads
from pyprod.measure import choose, heat, store
from pyprod.measure.choose import Choice
from pyprod.measure.heat import Settings
from pyprod.recipes import RecipeFile
from pyprod.types import Candidate, Measurement, PyprodError

CHOICE = "choice.json"


@dataclass(frozen=True)
class Shipped:
    """What came of a recipe file.

    Attributes:
        record: folder of the measurements; ``choice.json`` in it has the rest.
        choices: one per batch and thread count.
        digests: by recipe, the digest of its model.
        failed: by recipe that could not be made, why.
    """

    record: Path
    choices: Sequence[Choice]
    digests: Mapping[str, str]
    failed: Mapping[str, str]


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
    found = Shipped(record, choices, digests, failed)
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
    }


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
    how = file.bench
    return bench.select(
        workload_names=[file.workload],
        recipe_names=list(digests),
        backend_names=how.backends,
        devices=[how.device],
        batches=how.batch,
        threads=how.threads,
    )


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
