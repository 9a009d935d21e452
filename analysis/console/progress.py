"""Progress of a job with stages, on the terminal."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from analysis.console.output import print_note
from analysis.console.plain_text import one_line


class Tell(Protocol):
    """Tells how many of how many are done, and what there is to say of it in a line below."""

    def __call__(self, done: int, total: int, line: str = "") -> None: ...


class _WithLine(Progress):
    """Bars with a line of text below them."""

    line = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.line:
            yield Text(self.line)


class TerminalProgress:
    """One line per stage: a bar while it runs, then how long it took."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, title: str) -> Iterator[Tell]:
        """Show a stage; what is given is told how far it is."""
        columns = (
            TextColumn("{task.description:<46}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with _WithLine(*columns, console=self._console) as bars:
            task = bars.add_task(one_line(title), total=None)

            def tell(done: int, total: int, line: str = "") -> None:
                bars.line = one_line(line)
                bars.update(task, completed=done, total=total)

            yield tell
            total = bars.tasks[task].total or 1
            bars.update(task, completed=total, total=total)

    def note(self, text: str) -> None:
        """A line above the bars."""
        print_note(text, self._console)
