"""Knowledge distillation: an objective of `pyprod.train.fit` that makes a student's outputs those of its teacher."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod import discover
from pyprod.train.settings import Objective
from pyprod.types import PyprodError
from pyprod.workloads import Training, fingerprint

Kind = Literal["logits", "embedding"]


@dataclass(frozen=True)
class Distillation:
    """How a student learns from its teacher.

    Attributes:
        weight: of the teacher's part of the loss; the rest is the data's own.
        temperature: of both softmaxes; the loss is multiplied by its square (Hinton et al. 2015).
        kind: "logits" of classes (one column: of a yes), or "embedding": the mean squared distance of the outputs.
        features: by name of a student's module, the teacher's whose output it shall have: of the same shape.
        attention: by name of a student's module, the teacher's: where in the image or the text activations are large
            shall agree (Zagoruyko and Komodakis 2017), whatever the number of channels.
        feature_weight: of these, added.
    """

    weight: float = 0.9
    temperature: float = 4.0
    kind: Kind = "logits"
    features: Mapping[str, str] = field(default_factory=dict)
    attention: Mapping[str, str] = field(default_factory=dict)
    feature_weight: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.weight <= 1 and self.temperature > 0 and self.kind in ("logits", "embedding")):
            raise PyprodError("weight is a share, temperature above 0, and kind logits or embedding")


def objective(teacher: nn.Module, data: Training, how: Distillation, cache: Path | None = None) -> Objective:
    """The loss of a student.

    Where rows are not augmented, the teacher's outputs are computed once, and kept in `cache` (a folder) for the next
    run. Where they are, or where modules inside are compared, the teacher sees each batch as the student does (Beyer
    et al. 2022).

    Raises:
        PyprodError: (when called) a module that `how` names does not exist, or shapes differ.
    """
    teacher = copy.deepcopy(teacher).eval().requires_grad_(False)  # it may be the very module that is trained
    pairs = {**how.features, **how.attention}
    known = None if pairs or _augments(data) else _outputs(teacher, data, cache)

    def loss(student: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor, rows: Tensor) -> Tensor:
        with _watched(student, pairs.keys()) as mine, _watched(teacher, pairs.values()) as theirs:
            outputs = student(*inputs)
            if known is None:
                with torch.no_grad():
                    wanted = teacher(*inputs)
            else:
                wanted = known[rows].to(outputs.device)
        if outputs.shape != wanted.shape:
            raise PyprodError(f"the student gives {list(outputs.shape)}, its teacher {list(wanted.shape)}")
        total = how.weight * response(outputs, wanted, how)
        if how.weight < 1:
            total = total + (1 - how.weight) * data.loss(outputs, targets)
        for names, compare in ((how.features, feature_distance), (how.attention, attention_distance)):
            for name, other in names.items():
                total = total + how.feature_weight * compare(mine[name], theirs[other])
        return total

    return loss


def from_teacher(
    teacher: nn.Module, data: Training, arguments: Mapping[str, Any], cache: Path | None = None
) -> Objective:
    """`objective`, from the fields of `Distillation` as a recipe says them."""
    return objective(teacher, data, discover.construct(Distillation, arguments, "distill"), cache)


def response(student: Tensor, teacher: Tensor, how: Distillation) -> Tensor:
    """Distance of outputs ``[b, ...]``, a scalar."""
    student = student.float()  # a softmax in bfloat16 has two digits
    teacher = teacher.float()
    if how.kind == "embedding":
        return F.mse_loss(student, teacher) * student.shape[-1]  # of vectors, whatever their width
    if student.shape[-1] == 1:
        soft = torch.sigmoid(teacher / how.temperature)
        entropy = F.binary_cross_entropy(soft, soft)  # so that it is 0 where they agree
        return how.temperature**2 * (F.binary_cross_entropy_with_logits(student / how.temperature, soft) - entropy)
    mine, wanted = (F.log_softmax(logits / how.temperature, -1) for logits in (student, teacher))
    return how.temperature**2 * F.kl_div(mine, wanted, reduction="batchmean", log_target=True)


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance over the teacher's mean square.

    Raises:
        PyprodError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise PyprodError(
            f"features of {list(student.shape)} and {list(teacher.shape)}: compare their attention instead"
        )
    return F.mse_loss(student.float(), teacher.float()) / teacher.float().square().mean().clamp_min(1e-12)


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the maps of mean squares over channels, each of length 1, ``[b, c, h, w]`` or ``[b, t, c]``.

    Raises:
        PyprodError: the maps differ in size.
    """
    maps = [
        F.normalize(x.float().square().mean(1 if x.dim() == 4 else -1).flatten(1), dim=1) for x in (student, teacher)
    ]
    if maps[0].shape != maps[1].shape:
        raise PyprodError(
            f"attention of {list(student.shape)} and {list(teacher.shape)}: their places differ in number"
        )
    return (maps[0] - maps[1]).square().sum(1).mean()


@contextlib.contextmanager
def _watched(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of the modules of these names, once the model has run within."""
    modules, seen = dict(model.named_modules()), dict[str, Tensor]()

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output

        return hook

    hooks = []
    try:
        for name in names:
            if name not in modules:
                raise PyprodError(discover.unknown("module", name, modules))
            hooks.append(modules[name].register_forward_hook(keep(name)))
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _augments(data: Training) -> bool:
    return data.augment is not Training.__dataclass_fields__["augment"].default


def _outputs(teacher: nn.Module, data: Training, cache: Path | None) -> Tensor:
    """The teacher's outputs of all rows; from `cache` where it has them."""
    key = fingerprint([*teacher.state_dict().values(), *data.inputs]) if cache else ""
    path = cache / f"teacher-{key}.safetensors" if cache else None
    if path and path.is_file():
        known: Tensor = load_file(path)["outputs"]
        return known
    count = len(data.targets)
    with torch.inference_mode():
        found = [teacher(*(t[i : i + data.batch] for t in data.inputs)) for i in range(0, count, data.batch)]
    outputs = torch.cat(found).clone()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        save_file({"outputs": outputs}, part)
        part.replace(path)
    return outputs
