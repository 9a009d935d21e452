"""Control groups whose processes can be stopped and let go on together (version 2)."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from d2ft_sched.errors import InputError
from runtime.testbed.owner import is_stale

FREEZE = "cgroup.freeze"
"""File of a group: "1" stops what is in it, "0" lets it go on."""

_END_WAIT_S = 5.0
_NO_GROUPS = "the testbed cannot limit CPU shares: {}; pass --no-cpu-shares to go without"


@dataclass(frozen=True)
class Hierarchy:
    """Where control groups are made."""

    root: Path

    def create(self, name: str, number: int) -> list[Path]:
        """A group called `name` with so many inside; these.

        Raises:
            InputError: the groups cannot be made, or not be stopped.
        """
        top = self.root / name
        groups = [top / str(i) for i in range(number)]
        try:
            top.mkdir()
            for group in groups:
                group.mkdir()
        except OSError as error:
            raise InputError(_NO_GROUPS.format(f"{error.filename}: {error.strerror}")) from None
        if not (top / FREEZE).exists():
            raise InputError(_NO_GROUPS.format("the kernel cannot stop control groups"))
        return groups

    def names(self) -> list[str]:
        """Names of the groups that are made at the top."""
        return sorted(path.name for path in self.root.iterdir() if path.is_dir())

    def remove(self, name: str) -> None:
        """End what runs in a group and in those inside it, and remove them."""
        top = self.root / name
        deadline = time.monotonic() + _END_WAIT_S
        for group in (*(path for path in top.iterdir() if path.is_dir()), top):
            while True:
                for pid in (group / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                try:
                    group.rmdir()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)

    def remove_stale(self) -> None:
        """Remove the groups of testbeds whose process has ended."""
        for name in filter(is_stale, self.names()):
            self.remove(name)


def find_hierarchy() -> Hierarchy:
    """The control groups of this machine.

    Raises:
        InputError: there are none, or they cannot be written to.
    """
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if kind != "cgroup2":
            continue
        if not os.access(mount, os.W_OK):
            raise InputError(_NO_GROUPS.format(f"{mount} cannot be written to"))
        return Hierarchy(Path(mount))
    raise InputError(_NO_GROUPS.format("no control groups of version 2 are mounted"))
