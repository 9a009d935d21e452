"""Progress of a study: a bar on a terminal, and lines with the time left for a log."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from analysis.console.output import print_note
from analysis.console.plain_text import one_line

FIRST_STEPS = 10
"""Steps after which the time left is told for the first time."""


class StudyProgress:
    """Shows how far a study is; what others have done meanwhile does not count as fast work."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description:<60}", markup=False),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._task = self._bar.add_task(one_line(title), total=None)
        self._begin_s = time.monotonic()
        self._last = self._own = self._total = 0
        self._has_told = False

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def tell(self, done: int, total: int, what: str) -> None:
        """Steps done of how many, and the run."""
        self._own += 1 if done > self._last else 0
        self._last, self._total = done, total
        self._bar.update(self._task, completed=done, total=total, description=one_line(what))
        if self._own >= FIRST_STEPS and not self._has_told:
            self._has_told = True
            self.say(what)

    def say(self, line: str) -> None:
        """Print a line and, once it can be guessed, the time left."""
        left_s = self.left_s
        tail = "" if left_s is None else f" (about {duration(left_s)} left)"
        print_note(line + tail, self._console)

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at this process's pace so far; None before its first step."""
        if not self._own:
            return None
        step_s = (time.monotonic() - self._begin_s) / self._own
        return step_s * (self._total - self._last)


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds below a minute."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
