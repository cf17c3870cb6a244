"""A repository with one small benchmark, whose versions are slow, broken or gone, for gates that run for real."""

from __future__ import annotations

import subprocess
from pathlib import Path

SUITE = """
import torch
import toy

def benchmarks():
    return {"work": lambda place: work(place, toy.work), "other": lambda place: work(place, toy.other)}

def work(place, function):
    x, w = place.input(torch.randn(64, 64)), place.weight(torch.randn(64, 64))
    return lambda: function(x, w)
"""
#: About 25 us: several products, so that one more is a known share.
CODE = """
def work(x, w):
    for _ in range({count}):
        y = x @ w
    return y

def other(x, w):
    return x + w
"""


class Toy:
    """The repository; every commit has a tag."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet")
        self.git("config", "user.email", "toy@example.com")
        self.git("config", "user.name", "Toy")
        self.write("bench/gate_toy.py", SUITE)
        self.write("toy.py", CODE.format(count=4))
        self.commit("base")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(self.root), *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self, tag: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", tag)
        self.git("tag", tag)

    def head(self, tag: str, code: str, suite: str = SUITE) -> str:
        """A commit on top of the base with this code."""
        self.git("checkout", "--quiet", "base")
        self.write("toy.py", code)
        self.write("bench/gate_toy.py", suite)
        self.commit(tag)
        return tag
