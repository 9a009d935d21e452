"""Progress of a job with stages, on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from analysis.console.output import print_note
from analysis.console.plain_text import one_line


class TerminalProgress:
    """One line per stage: a bar while it runs, then how long it took."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Show a stage; the function given takes how many of how many are done."""
        columns = (
            TextColumn("{task.description:<46}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as bars:
            task = bars.add_task(one_line(title), total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
            total = bars.tasks[task].total or 1
            bars.update(task, completed=total, total=total)

    def note(self, text: str) -> None:
        """A line above the bars."""
        print_note(text, self._console)
