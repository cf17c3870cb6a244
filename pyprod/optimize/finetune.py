"""Training further: to win back what a step before has cost, with or without the original model as teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyprod.discover import construct
from pyprod.optimize import magnitude
from pyprod.step import Context, Made
from pyprod.train import Callback, Settings, fit
from pyprod.train.distill import from_teacher
from pyprod.types import PyprodError
from pyprod.workloads import training


def apply(
    made: Made,
    context: Context,
    *,
    distill: Mapping[str, Any] | None = None,
    sparsity: float = 0.0,
    keep_zeros: bool = False,
    **settings: Any,
) -> Made:
    """The step: `pyprod.train.fit` on the workload's training rows.

    Args:
        distill: fields of `pyprod.train.distill.Distillation`: learn from the workload's model as it was.
        sparsity: prune to this share of zeros meanwhile.
        keep_zeros: weights that are zero stay so.
        settings: fields of `pyprod.train.Settings`.

    Raises:
        PyprodError: an argument is unknown, or sparsity and keep_zeros are both given.
    """
    if sparsity and keep_zeros:
        raise PyprodError("finetune: sparsity keeps zeros already; leave keep_zeros out")
    data, objective = training(context.workload), None
    if distill is not None:
        objective = from_teacher(context.workload.model(), data, distill, context.folder)
    callbacks: list[Callback] = [magnitude.Gradually(sparsity)] if sparsity else []
    callbacks += [magnitude.KeepZeros()] if keep_zeros else []
    chosen = construct(Settings, {"threads": context.threads} | settings, "finetune")
    found = fit(
        lambda: made.model, data, chosen, objective=objective, callbacks=callbacks, folder=context.folder, title=""
    )
    if callbacks:
        magnitude.finish(found.model)
    how_long = f"{len(found.history)} epochs" + (" of distillation" if distill is not None else "")
    skipped = f", {found.skipped} steps skipped" if found.skipped else ""
    note = f"trained further for {how_long}{skipped}" + (f", {sparsity:.0%} of the weights zero" if sparsity else "")
    return replace(made, model=found.model, notes=(*made.notes, note))
