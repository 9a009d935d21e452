"""Files that end: pipes and devices are not read in their place, for they may never end."""

import stat
from pathlib import Path

from d2ft_sched.errors import InputError


def check_regular(path: Path) -> None:
    """Refuse a pipe, a device or a socket. Folders and what is not there are left to the reading.

    Raises:
        InputError: it is one; without the file's name.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise InputError(f"cannot be read (it is a {kind}, not a file)")


def check_named(path: Path) -> None:
    """As `check_regular`, with the file's name."""
    try:
        check_regular(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
