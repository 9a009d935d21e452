"""How much of its quota a processor takes at a time: a setting of the whole machine."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from runtime.testbed.cpu_shares import Hierarchy
from runtime.testbed.owner import is_live

_SLICE = Path("/proc/sys/kernel/sched_cfs_bandwidth_slice_us")
_SLICE_US = "500"
"""What a processor takes of a quota at a time. By default 5 ms, more than the quota of a short
period: shares would then fall short."""

_SLICE_BEFORE = Path("/run/d2ft-slice-before")
"""What the setting was before the first of the testbeds that are open, for the last of them, or the
next after a killed one, to put back; else empty."""


def refine_slices() -> None:
    """Let the kernel deal out quotas in small slices, where it has that setting.

    Testbeds have their groups before they call this.
    """
    with contextlib.suppress(OSError), _slice_before() as file:
        if not file.read():
            file.write(_SLICE.read_text())
            file.flush()
        _SLICE.write_text(_SLICE_US)


def restore_slices(hierarchy: Hierarchy) -> None:
    """Put back what `refine_slices` changed, if no testbed has a group any more."""
    with contextlib.suppress(OSError), _slice_before() as file:
        before = file.read()
        if before and not any(map(is_live, hierarchy.names())):
            _SLICE.write_text(before)
            file.truncate(0)


@contextlib.contextmanager
def _slice_before() -> Iterator[IO[str]]:
    """The file of `_SLICE_BEFORE`, for one process at a time."""
    with _SLICE_BEFORE.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file
