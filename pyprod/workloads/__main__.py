"""``python -m pyprod.workloads fetch|train NAME...``: fill the cache; make the committed weights again."""

from __future__ import annotations

import argparse
import json
import sys
from types import ModuleType

import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from pyprod import discover, workloads
from pyprod.types import Evaluation, PyprodError
from pyprod.workloads import Workload, _assets, _weights


def main() -> int:
    """Run one verb on the named workloads (all, when none is named); exit code 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m pyprod.workloads", description=__doc__)
    parser.add_argument("verb", choices=("fetch", "train"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    try:
        for name in options.names or discover.names(workloads.__name__):
            module = discover.load(workloads.__name__, name)
            if options.verb == "fetch":
                for asset in module.ASSETS:
                    print(_assets.fetch(asset))
            elif hasattr(module, "train"):
                print(train(name, module))
            elif options.names:
                raise PyprodError(f"{name} has published weights: nothing to train")
    except PyprodError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def train(name: str, module: ModuleType) -> str:
    """Fit the workload's model, write its weights and their digest, and say in a line what it reaches."""
    path = _weights.FOLDER / f"{name}.safetensors"
    old = path.read_bytes() if path.is_file() else b""
    part = path.with_suffix(".part")
    save_file({key: tensor.contiguous() for key, tensor in module.train().state_dict().items()}, part)
    part.chmod(0o644)  # safetensors writes for the owner only
    part.replace(path)
    digests = json.loads(_weights.DIGESTS.read_text()) if _weights.DIGESTS.is_file() else {}
    part = _weights.DIGESTS.with_suffix(".part")
    part.write_text(json.dumps(digests | {path.name: _assets.sha256(path)}, indent=2, sort_keys=True) + "\n")
    part.replace(_weights.DIGESTS)
    same = "the same weights as before" if path.read_bytes() == old else "new weights"
    return f"{name}: {metric(module.build())} ({same}: {path}, {path.stat().st_size:,} bytes)"


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
