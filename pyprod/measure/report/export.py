"""The derived table and the raw measurements as files for other programs."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pyprod.types import Measurement


def to_csv(frame: pd.DataFrame) -> str:
    """RFC 4180 with a header; an empty field is a value that was not measured."""
    return frame.to_csv(index=False, lineterminator="\n")


def to_parquet(frame: pd.DataFrame) -> bytes:
    """One Parquet file with the frame's columns and types."""
    out = io.BytesIO()
    frame.to_parquet(out, index=False)
    return out.getvalue()


def to_json(
    measurements: Sequence[Measurement], frame: pd.DataFrame, environment: Mapping[str, Any], plan: Mapping[str, Any]
) -> str:
    """One object: environment, plan, the derived rows, and the measurements (measurement.schema.json).

    Strict JSON: a number that is missing or not finite is null.
    """
    whole = {
        "environment": environment,
        "plan": plan,
        "rows": frame.astype(object).where(frame.notna(), None).to_dict("records"),
        "measurements": [m.to_json() for m in measurements],
    }
    return json.dumps(_finite(whole), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
