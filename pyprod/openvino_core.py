"""OpenVINO's core, one for the process, for as long as it lives."""

from __future__ import annotations

from functools import cache

import openvino as ov


@cache
def core() -> ov.Core:
    """What every model here is read and compiled by.

    On a CPU with AMX each core's CPU plugin gives the thread a signal stack of its own, and unmaps it when the core
    goes (2026.4, SigAltStackSetup). Of two cores the one made first may go first; the other then brings back a stack
    that is no more, and the next signal that Python handles, Ctrl-C say, kills the process without a word.
    """
    return ov.Core()
