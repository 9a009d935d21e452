"""Who does which run, where several processes work on one study's folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

FOLDER = "claims"


@contextmanager
def claim(folder: Path, name: str, *, wait: bool = False) -> Iterator[bool]:
    """Have a name for this process alone until the block ends, or the process in whatever way.

    Whoever had it before may have done the work: look again in the block.

    Args:
        folder: of the study's results.
        name: fit for a file's name.
        wait: until another process that has it lets it go.

    Yields:
        Whether this process has it.
    """
    path = folder / FOLDER / name
    file = _lock(path, wait)
    try:
        yield file is not None
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            file.close()


def _lock(path: Path, wait: bool) -> IO[str] | None:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        if _is_still_there(path, file):
            return file
        file.close()


def _is_still_there(path: Path, file: IO[str]) -> bool:
    """Whether the locked file is the one that others will find; it goes with every release."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
