"""Files that one process at a time holds, until it lets them go or ends in whatever way."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from d2ft_sched.errors import InputError

LOCK = ".lock"
"""Name of the file that stands for a folder."""


@contextmanager
def hold(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a file, which is there only as long as somebody holds it.

    Whoever held it before may have changed what it stands for: look again in the block.

    Args:
        path: of the file; its folder is made if need be.
        wait: until another process that holds it lets it go.

    Yields:
        Whether this process holds it.

    Raises:
        InputError: the file cannot be made or locked.
    """
    try:
        file = _lock(path, wait)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written ({error.strerror})") from None
    try:
        yield file is not None
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            file.close()


@contextmanager
def alone_in(folder: Path, option: str) -> Iterator[None]:
    """Be the only process that writes into a folder.

    Args:
        folder: of results, made if need be; gone again if nothing was written there.
        option: that names it.

    Raises:
        InputError: another process writes there, which is named; or the folder cannot be written.
    """
    path = Path(folder) / LOCK
    missing = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
    try:
        with hold(path) as is_mine:
            if not is_mine:
                raise InputError(
                    f"{folder}: {_holder(path)} is writing there; wait for its end, or give "
                    f"another {option}"
                )
            yield
    finally:
        with suppress(OSError):  # not empty
            for made in missing:
                made.rmdir()


def _lock(path: Path, wait: bool) -> IO[str] | None:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a", encoding="utf-8")
        except FileNotFoundError:  # the folder went with the lock of another process
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_still_there(path, file):
                _name_holder(file)
                return file
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            file.close()
            raise
        file.close()


def _is_still_there(path: Path, file: IO[str]) -> bool:
    """Whether the locked file is the one that others will find; it goes with every release."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _name_holder(file: IO[str]) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    file.truncate(0)  # a process that was killed has left its own
    file.write(f"process {os.getpid()} on {platform.node()} (since {now})")
    file.flush()


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
