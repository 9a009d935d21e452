"""Processes that share a folder of data, of which one fetches what is not there."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from d2ft_sched.errors import InputError


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{folder}: data cannot be fetched into it ({error.strerror})") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
