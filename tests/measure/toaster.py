"""Subjects that are no models: what the measuring harness must cope with, in processes that really die and hang."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from pyprod.measure.subject import Observation
from pyprod.types import Mismatch, Unavailable


def make(payload: Mapping[str, Any]) -> Toaster:
    return Toaster(payload)


class Toaster:
    """Toasts for ``payload["toast_ms"]``; misbehaves as ``payload["bug"]`` says, in the stage ``payload["stage"]``."""

    samples_per_call = 2

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self.payload = payload
        self.toasts = self.slices = 0

    def _stage(self, name: str) -> None:
        if self.payload.get("stage") != name:
            return
        match self.payload["bug"]:
            case "raise":
                raise ValueError("burnt\n  toast")
            case "unavailable":
                raise Unavailable("no bread", "buy some")
            case "mismatch":
                raise Mismatch("that is a bagel")
            case "out_of_memory":
                raise MemoryError("no more crumbs")
            case "crash":
                print("smoke!", flush=True)
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(7)
            case "hang":
                time.sleep(1000)

    def build(self) -> list[Observation]:
        self._stage("build")
        return [Observation("build_time", "s", [0.5], {"pid": os.getpid(), "cpus": sorted(os.sched_getaffinity(0))})]

    def check(self) -> list[Observation]:
        self._stage("check")
        return [Observation("trial", "s", [self.payload["trial_s"]])] if "trial_s" in self.payload else []

    def score(self) -> list[Observation]:
        self._stage("score")
        return [Observation("accuracy", "mean", [1, 0], {"statistic": "mean", "truth": [], "cluster": []})]

    def release(self) -> None:
        self._stage("release")

    def memory(self) -> list[Observation]:
        self._stage("memory")
        return [Observation("toasts", "1", [self.toasts]), Observation("faults", "1", [self._faults()])]

    def _faults(self) -> int:
        """Page faults of ten rounds of taking, touching and freeing ``payload["allocate"]`` bytes, after the first."""
        size = self.payload.get("allocate", 1)
        bytearray(size)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            bytearray(size)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    @property
    def call(self) -> Callable[[], object]:
        self.slices += 1
        return self._toast

    def _toast(self) -> None:
        self._stage("warmup" if self.slices == 1 else "time")
        self.toasts += 1
        end = time.perf_counter() + self.payload.get("toast_ms", 1) / 1000
        while time.perf_counter() < end:
            pass
