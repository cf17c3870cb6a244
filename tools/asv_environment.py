"""asv's environments: for each commit its own build of pyprod, beside the packages of the venv that asv runs in.

The kinds that asv knows install torch anew for every environment (virtualenv, conda), or can't build another commit
than the one that is checked out (existing). This one needs no network at all. ``asv.conf.json`` names it.
"""

from __future__ import annotations

import sys
import venv
from pathlib import Path
from typing import Any

from asv.environment import Environment
from asv.machine import Machine, MachineCollection

from pyprod import environment

#: What asv knows about this machine; asv's own place is the home folder, after questions on the terminal.
MACHINES = Path(".asv/machines.json")

PIP = """#!/bin/sh
exec "$(dirname "$0")/python" -m pip "$@"
"""


class Shared(Environment):
    """A venv that also sees the site-packages of the Python that runs asv."""

    tool_name = "shared"

    def __init__(self, conf: Any, python: str, requirements: dict[str, str], tagged_env_vars: dict[Any, str]) -> None:
        self._requirements = requirements  # the base class reads it before it sets it
        super().__init__(conf, python, requirements, tagged_env_vars)

    @classmethod
    def matches(cls, python: str) -> bool:
        """Only the Python that runs asv has the packages."""
        return python == f"{sys.version_info.major}.{sys.version_info.minor}"

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Run this environment's Python."""
        return self.run_executable("python", args, **kwargs)

    def _setup(self) -> None:
        path = Path(self._path)
        venv.create(path, symlinks=True, with_pip=False)
        site_packages = path / f"lib/python{self._python}/site-packages"
        shared = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
        # Plain paths in a .pth file: the .pth files inside them, such as an editable pyprod's, are not obeyed.
        (site_packages / "shared.pth").write_text("\n".join(shared) + "\n")
        pip = path / "bin/pip"  # asv makes an environment anew that has no such file
        pip.write_text(PIP)
        pip.chmod(0o755)
        (path / "build.cfg").write_text(f"[build]\nbuild_temp = {path / 'build'}\n")


def setup() -> None:
    """Called by asv when it loads this plugin: name the machine as pyprod does, without its host name."""
    name = environment.machine()
    Machine.hardcoded_machine_name = name
    MachineCollection.get_machine_file_path = staticmethod(lambda: str(MACHINES))
    MACHINES.parent.mkdir(exist_ok=True)
    MachineCollection.save(name, {**Machine.get_defaults(), "machine": name})
