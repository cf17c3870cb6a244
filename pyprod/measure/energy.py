"""Joules that the CPU packages have used, where Linux shows the counters (Intel and AMD RAPL, through powercap)."""

from __future__ import annotations

from pathlib import Path

#: https://docs.kernel.org/power/powercap/powercap.html
POWERCAP = Path("/sys/class/powercap")


class Rapl:
    """The counters of all packages, summed. They wrap: `joules` must be called at least once a minute.

    Raises:
        OSError: (from `joules`) a counter can't be read any more.
    """

    def __init__(self, packages: list[Path]) -> None:
        self._packages = packages
        self._range = [int((p / "max_energy_range_uj").read_text()) for p in packages]
        self._last = self._read()
        self._total = 0

    def joules(self) -> float:
        """Since this object was made."""
        now = self._read()
        self._total += sum((new - old) % most for new, old, most in zip(now, self._last, self._range, strict=True))
        self._last = now
        return self._total / 1e6

    def _read(self) -> list[int]:
        return [int((package / "energy_uj").read_text()) for package in self._packages]


def rapl(root: Path = POWERCAP) -> Rapl | None:
    """The counters of this machine; None in most virtual machines, and where only root may read them."""
    packages = sorted(p for p in root.glob("*rapl:*") if p.name.count(":") == 1 and (p / "energy_uj").is_file())
    try:
        return Rapl(packages) if packages else None
    except (OSError, ValueError):
        return None
