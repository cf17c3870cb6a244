"""``python -m pyprod.train [NAME...]``: make the committed weights again; killed, it goes on where it was."""

from __future__ import annotations

import argparse
import sys

import torch
from sklearn.metrics import roc_auc_score

from pyprod import discover, workloads
from pyprod.train import fit
from pyprod.types import Evaluation, PyprodError
from pyprod.workloads import Workload, _weights


def main() -> int:
    """Train the named workloads (all that this project has the weights of, when none is named): exit code 0, or 2."""
    parser = argparse.ArgumentParser(prog="python -m pyprod.train", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    try:
        for name in options.names or discover.names(workloads.__name__):
            module = discover.load(workloads.__name__, name)
            if hasattr(module, "training"):
                print(weights(name))
            elif options.names:
                raise PyprodError(f"{name} has published weights: nothing to train")
    except PyprodError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def weights(name: str) -> str:
    """Fit the workload's model, write its weights and their digest, and say in a line what it reaches."""
    module = discover.load(workloads.__name__, name)
    data = module.training()
    folder = workloads.cache_dir() / "training" / name
    made = fit(data.model, data, folder=folder, title=name)
    path, same = _weights.install(name, made.model.state_dict())
    (folder / "checkpoint.safetensors").unlink()
    what = "the same weights as before" if same else "new weights"
    return f"{name}: {metric(module.build())} ({what}: {path}, {path.stat().st_size:,} bytes)"


def metric(workload: Workload) -> str:
    """What the model reaches on the evaluation set, in words."""
    assert workload.score is not None
    model = workload.model()
    with torch.inference_mode():
        starts = range(0, workload.inputs[0].shape[0], 64)
        outputs = [workload.reduce(model(*(t[i : i + 64] for t in workload.inputs)), i) for i in starts]
    found: Evaluation = workload.score(torch.cat(outputs))
    rows = len(found.values)
    if found.statistic == "roc_auc":
        return f"ROC AUC {roc_auc_score(found.truth, found.values):.4f} on {rows:,} rows"
    return f"accuracy {sum(found.values) / rows:.4f} on {rows:,} rows"


if __name__ == "__main__":
    sys.exit(main())
