"""Names of what a testbed makes, from which a later one tells whether its owner still lives."""

import os
import re
from pathlib import Path

_NAME = re.compile(r"d2ft-(\d+)-(\d+)(?:-.*)?")


def own_prefix() -> str:
    """``d2ft-PID-STARTED`` of this process; both together are never used twice until a reboot."""
    pid = os.getpid()
    return f"d2ft-{pid}-{_start_ticks(pid)}"


def is_stale(name: str) -> bool:
    """Whether `name` is that of a testbed whose process has ended."""
    match = _NAME.fullmatch(name)
    return match is not None and _start_ticks(int(match[1])) != int(match[2])


def is_live(name: str) -> bool:
    """Whether `name` is that of a testbed whose process has not ended."""
    return _NAME.fullmatch(name) is not None and not is_stale(name)


def _start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (proc(5), field 22); None if there is none
    or it has ended and only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
