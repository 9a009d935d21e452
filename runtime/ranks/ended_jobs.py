"""Notes of jobs that came to nothing, for ranks of this host that come when nobody keeps the store.

A rank may take minutes to come, and who cannot take part does not stay as long. A note is of a job
if it was written after this process began: its launcher starts ranks together, and a later job at
the same port begins after it.
"""

import hashlib
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import platformdirs

from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text

_KEPT_S = 86_400.0
"""Age at which notes are removed when another is written."""


def leave_note(host: str, port: int, why: str) -> None:
    """Say that the job whose store is, or would be, at this place does not come about."""
    place = _place(host, port)
    with suppress(OSError, InputError):  # a folder that cannot be written holds no notes
        for old in place.parent.glob("*.json"):
            if time.time() - old.stat().st_mtime > _KEPT_S:
                old.unlink()
    with suppress(OSError, InputError):
        write_text(place, json.dumps({"time": time.time(), "why": why}))


def find_note(host: str, port: int) -> str | None:
    """Why this process's job does not come about, if another rank has left a note."""
    try:
        note = json.loads(_place(host, port).read_text(encoding="utf-8"))
        return str(note["why"]) if note["time"] > _began() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _place(host: str, port: int) -> Path:
    digest = hashlib.sha256(f"{socket.gethostname()} {host} {port}".encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("d2ft")) / "ended-jobs" / f"{digest}.json"


def _began() -> float:
    """When this process did, in seconds of `time.time`."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    ticks = int(after_name[19])  # field 22 of proc(5), starttime
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s
