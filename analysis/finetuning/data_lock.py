"""Processes that share a folder of data, of which one fetches what is not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analysis.results.file_lock import LOCK, hold


@contextmanager
def one_fetches(download: bool, data_root: Path | None) -> Iterator[None]:
    """Let one process at a time read data that it may fetch; those after it find them there.

    Raises:
        InputError: the folder cannot be made or read.
    """
    if not download:
        yield
        return
    folder = data_root or Path("data")
    with hold(folder / LOCK, wait=True):
        yield
