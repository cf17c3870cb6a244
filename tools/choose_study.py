"""How often the form that `pyprod ship` chooses meets the demands, and how much better the best one would have been.

A record of many rounds stands for the truth. Each repeat sees some of its rounds only, drawn at random, and chooses
from them; what it chose is then judged by all rounds, against the best of the forms that meet every demand by all of
them.

    python -m tools.choose_study results/RECORD results/choose/NAME.json --require p99_ms=20 size_mb=25
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyprod.measure import choose, store
from pyprod.measure.report import summarize
from pyprod.measure.store import write_atomically
from pyprod.progress import Bar
from pyprod.types import Measurement

#: Metrics that are taken in every round; the others are the same in each repeat.
_BY_ROUND = {"latency", "throughput"}


def main() -> None:
    """Repeat, and write what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--require", nargs="+", required=True, metavar="DEMAND=LIMIT")
    parser.add_argument("--prefer", default="latency", choices=sorted(choose.PREFERENCES))
    parser.add_argument("--rounds", type=int, default=10, help="of each repeat (default: 10)")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    demands = {name: float(limit) for name, limit in (text.split("=") for text in options.require)}
    measurements = store.read(options.record).measurements
    with Bar("choosing") as bar:
        bar.planned(options.repeats)
        rows = list(study(measurements, demands, options, bar))
    about = {"record": options.record.name, "require": demands, "prefer": options.prefer, "rounds": options.rounds}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, json.dumps(about | {"seed": options.seed, "repeats": rows}, indent=1) + "\n")
    regrets = [row["regret"] for row in rows if row["chosen"]]
    print(f"met: {sum(row['met'] for row in rows)} of {len(rows)}; largest regret {max(regrets, default=0.0):.1%}")


def study(measurements: Sequence[Measurement], demands: Mapping[str, float], options: Any, bar: Bar) -> Iterator[Any]:
    """A row per repeat: what was chosen, whether it meets the demands, and how much worse it is than the best."""
    chance = random.Random(options.seed)
    rounds = sorted({m.round for m in measurements if m.metric == "latency"})
    column, end = choose.PREFERENCES[options.prefer]
    value = {row["candidate"]: float(row[column]) for _, row in summarize(measurements).iterrows()}
    (truth,) = choose.choose(measurements, demands, options.prefer)
    meeting = [name for name, found in truth.judged.items() if all(_keeps(judged) for judged in found)]
    if not meeting:
        raise SystemExit("no form of the record meets these demands: there is nothing to find")
    best = (min if end == "low" else max)(value[name] for name in meeting)
    for _ in range(options.repeats):
        seen = set(chance.sample(rounds, options.rounds))
        (found,) = choose.choose(
            [m for m in measurements if m.metric not in _BY_ROUND or m.round in seen], demands, options.prefer
        )
        bar.step(found.chosen or "none")
        regret = None
        if found.chosen:
            ratio = value[found.chosen] / best
            regret = (ratio if end == "low" else 1 / ratio) - 1
        yield {"chosen": found.chosen, "met": found.chosen in meeting, "regret": regret, "alike": len(found.alike)}


def _keeps(judged: choose.Judged) -> bool:
    """Whether the value itself keeps to the demand: of the whole record the value is taken for the truth."""
    return judged.excess <= 0


if __name__ == "__main__":
    main()
