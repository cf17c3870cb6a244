"""Everything that exists here, with the reason for what can't run: the verb ``pyprod list``."""

from __future__ import annotations

from typing import TypedDict

from pyprod import backends, workloads


class Row(TypedDict):
    """One thing: `unavailable` is empty, or says why it can't run here; `here` says how it stands if it can."""

    kind: str
    name: str
    what: str
    here: str
    unavailable: str


def rows(device: str) -> list[Row]:
    """Workloads, then backends as they stand on `device`."""
    found: list[Row] = []
    for name, about in workloads.catalog().items():
        found.append(Row(kind="workload", name=name, what=about.summary, here=about.assets, unavailable=about.problem))
    for name, variant, why in backends.known(device):
        what = variant.summary if variant else ""
        found.append(Row(kind="backend", name=name, what=what, here="yes", unavailable=str(why) if why else ""))
    return found
