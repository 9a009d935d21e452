"""A line now and then while something takes long, for people and programs that wait for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

from rich.console import Console

from analysis.console.output import print_note

EVERY_S = 5.0
"""Seconds between lines; what takes less than that says nothing."""


@contextmanager
def signs_of_life(console: Console, every_s: float = EVERY_S) -> Iterator[Callable[[str], None]]:
    """Say, every so many seconds until the block ends, what is being done and for how long.

    Yields:
        A function to call with what is begun.
    """
    begun, ended = [("working", monotonic())], Event()

    def speak() -> None:
        while not ended.wait(every_s):
            title, since_s = begun[-1]
            print_note(f"{title}: {monotonic() - since_s:.0f} s", beside=console)

    thread = Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield lambda title: begun.append((title, monotonic()))
    finally:
        ended.set()
        thread.join()
