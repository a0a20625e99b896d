"""Progress over many clips on standard error."""

from __future__ import annotations

from moe_pipeline.cli.border import printable


class ItemBar:
    """A bar with the time left on a terminal; elsewhere, only lines that have something to say."""

    def __init__(self, what: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True, highlight=False)
        columns = (TextColumn(what), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._task = self._bar.add_task(what, total=None)

    def __enter__(self) -> ItemBar:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:  # stopping a bar that was never shown prints an empty line
            self._bar.stop()

    def step(self, done: int, total: int, words: str) -> None:
        """After each item: how many are done, of how many, and a line about it (empty: none)."""
        self._bar.update(self._task, completed=done, total=total)
        if words:
            head = "" if self.console.is_terminal else f"{done} of {total}: "
            self.console.print(printable(f"{head}{words}"), markup=False, soft_wrap=True)
