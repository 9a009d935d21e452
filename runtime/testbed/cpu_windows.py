"""Devices that compute in windows of time, one after the other on each core.

A device of a third of the speed computes in a third of every period and stands still in the rest,
whatever it did before. A quota of processor time (``cpu.max``) would be simpler, but a group that
has waited for a message may use a whole quota at once and is stopped at the kernel's next tick
(4 ms with 250 ticks a second): work after a wait seems faster than the share. Measured on Linux
6.18, 10 ms of work after a wait, at a share of 0.276, which should take 36.2 ms, took 36.2 (36.0 to
36.6 in 60 trials); with quotas of 6 ms, at a share of 0.4, it took 21.4 in place of 25.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from runtime.testbed.control_groups import FREEZE
from runtime.testbed.cpu_shares import CpuShare, packet_core, period_s

_STOP, _GO = b"1", b"0"
_PRIORITY = 50
"""Among processes that run at once when they can (SCHED_FIFO)."""
_NICENESS = -20
_END_WAIT_S = 2.0


class CpuWindows:
    """What stops groups and lets them go on, in a process of its own, until it is closed."""

    def __init__(self, groups: Sequence[Path], of_groups: Sequence[CpuShare]) -> None:
        """Begin.

        Args:
            groups: control groups that can be stopped.
            of_groups: what each gets.
        """
        start = multiprocessing.get_context("fork")
        receiver, self._sender = start.Pipe(duplex=False)
        self._process = start.Process(
            target=_keep, args=(groups, of_groups, receiver, self._sender), daemon=True
        )
        self._process.start()
        receiver.close()

    def limit(self, index: int, cores: float) -> None:
        """Give a group this share from now on, whatever runs in it."""
        self._sender.send((index, cores))

    def close(self) -> None:
        """Let all groups go on, always."""
        self._sender.close()
        self._process.join(_END_WAIT_S)
        self._process.kill()
        self._process.join()


def compute_in(group: Path, core: int) -> None:
    """Move this process and what it will start into a group, on a core, before everything else."""
    (group / "cgroup.procs").write_text("0")
    os.sched_setaffinity(0, {core})
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICENESS))


def windows(of_groups: Sequence[CpuShare]) -> list[tuple[float, float]]:
    """When each group computes, from and until, in parts of a period.

    Those of a core follow one another; where they have more than the core together, each gets so
    much less.
    """
    taken: dict[int, float] = {}
    for share in of_groups:
        taken[share.core] = taken.get(share.core, 0.0) + share.cores
    begin = dict.fromkeys(taken, 0.0)
    found = []
    for share in of_groups:
        part = share.cores / max(1.0, taken[share.core])
        found.append((begin[share.core], begin[share.core] + part))
        begin[share.core] += part
    return found


def _keep(
    groups: Sequence[Path],
    of_groups: Sequence[CpuShare],
    changes: Connection,
    other_end: Connection,
) -> None:
    other_end.close()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.sched_setaffinity(0, {packet_core()})
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    files = [os.open(group / FREEZE, os.O_WRONLY) for group in groups]
    try:
        _stop_and_go(files, list(of_groups), changes)
    finally:
        for file in files:
            with contextlib.suppress(OSError):
                os.pwrite(file, _GO, 0)


def _stop_and_go(files: Sequence[int], of_groups: list[CpuShare], changes: Connection) -> None:
    begin_s = time.monotonic()
    while True:
        every_s = period_s(of_groups)
        events = _events(of_groups)
        while not changes.poll(0 if events else None):
            for at, stops, file in events:
                wait_s = begin_s + at * every_s - time.monotonic()
                if wait_s > 0:
                    time.sleep(wait_s)
                os.pwrite(files[file], _STOP if stops else _GO, 0)
            begin_s = max(begin_s + every_s, time.monotonic() - every_s)
        try:
            index, cores = changes.recv()
        except EOFError:
            return
        of_groups[index] = replace(of_groups[index], cores=cores)
        for file in files:
            os.pwrite(file, _GO, 0)


def _events(of_groups: Sequence[CpuShare]) -> list[tuple[float, bool, int]]:
    """What is done in a period, in its order: the part of it that has passed, whether a group
    stops, and which; none for a group that never stops. Who goes on does so when others have
    stopped."""
    events = []
    for index, (begin, end) in enumerate(windows(of_groups)):
        if end - begin < 1:
            events += [(begin, False, index), (end, True, index)]
    return sorted(events, key=lambda event: (event[0], not event[1]))
