"""What a person at a terminal sees while something runs: nothing at all when stderr is no terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pyprod.types import Candidate, Failure


class Bar:
    """A progress bar on stderr, with a line for each candidate that fails. Fits `pyprod.measure.heat.Progress`."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (
            TextColumn("{task.fields[title]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", style="dim"),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=0, title=title)
        self._total = 0

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        self._bar.stop()

    def planned(self, steps: int) -> None:
        """So many more steps are to come; negative when some fall away."""
        self._total += steps
        self._bar.update(self._task, total=self._total)

    def step(self, what: str) -> None:
        """One step is done."""
        self._bar.update(self._task, advance=1, description=escape(what))

    def failed(self, candidate: Candidate, failure: Failure) -> None:
        """Say at once what is out, and why; the table says it again."""
        if failure.kind != "unavailable" and not self._bar.disable:
            line = f"{candidate.id}: {failure.kind} in {failure.stage}: {failure.message}"
            self._bar.console.print(escape(line), style="yellow", soft_wrap=False, overflow="ellipsis", no_wrap=True)


class Share:
    """A bar of how much of a budget is spent. Fits `pyprod.gate.run.Progress`."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (TextColumn(title), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", style="dim"))
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> Share:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, spent: float, what: str) -> None:
        """So much of the budget, from 0 to 1, is spent; this happens now."""
        self._bar.update(self._task, completed=min(spent, 1.0), description=escape(what))
