"""A command as one rank on each device of a testbed, until all have ended."""

import contextlib
import ctypes
import math
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from d2ft_sched.errors import InputError
from runtime.testbed.namespaces import enter, open_namespace
from runtime.testbed.open_testbed import ENDING_SIGNALS, Interrupted, Testbed

MASTER_PORT = 29500
"""Free in every fresh namespace."""

END_WAIT_S = 3.0
"""What ranks get to end in after another has failed."""

INTERRUPT_WAIT_S = 30.0
"""What ranks get to end in, with a checkpoint perhaps, after the signal that asked for it."""

_KEPT_LINES = 40
_PR_SET_PDEATHSIG = 1


@dataclass
class _Rank:
    """One rank under way; `process_file` becomes readable when it ends."""

    name: str
    process: subprocess.Popen[bytes]
    process_file: int
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    rest: bytes = b""


def rank_environment(testbed: Testbed, rank: int) -> dict[str, str]:
    """What a rank finds in its environment beside this process's own: as from ``torchrun`` with one
    rank on each host, and the name of its device."""
    devices = testbed.cluster.devices
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(devices)),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": str(rank),
        "MASTER_ADDR": testbed.wiring.address[devices[0].name] if len(devices) > 1 else "127.0.0.1",
        "MASTER_PORT": str(MASTER_PORT),
        "GLOO_SOCKET_IFNAME": testbed.wiring.interface(devices[rank].name),
        "OMP_NUM_THREADS": "1",
        "D2FT_DEVICE_NAME": devices[rank].name,
    }


def run_ranks(
    testbed: Testbed,
    command: Sequence[str],
    *,
    verbose: bool = False,
    show: Callable[[str], None] = print,
    tick: Callable[[], float] = lambda: math.inf,
) -> int:
    """Run a command on every device at once.

    Rank 0 writes to this process's own output. When a rank fails the others are ended; a signal
    that arrives is passed on to all ranks, which then have `INTERRUPT_WAIT_S` to end, or until the
    signal comes again.

    Args:
        testbed: where.
        command: program and arguments.
        verbose: show what the other ranks write, after their device's name; else only the last
            lines of those that fail.
        show: takes such lines, and one about a rank that fails.
        tick: called when the ranks are under way, and again at the latest after as many seconds
            as it returned.

    Returns:
        Exit code of the first rank that failed, 128 and the signal's number where a signal ended
        it; else 128 and the number of the signal that interrupted, else 0.

    Raises:
        InputError: the command cannot be started.
    """
    ranks: list[_Rank] = []
    try:
        for rank in range(len(testbed.cluster.devices)):
            ranks.append(_start(testbed, command, rank))  # noqa: PERF401  all are ended below if one fails to start
        return _watch(ranks, verbose, show, tick)
    finally:
        for rank_process in ranks:
            _signal_group(rank_process, signal.SIGKILL)
            rank_process.process.wait()
            os.close(rank_process.process_file)
            if rank_process.process.stdout:
                rank_process.process.stdout.close()


def _start(testbed: Testbed, command: Sequence[str], rank: int) -> _Rank:
    name = testbed.cluster.devices[rank].name
    namespace = open_namespace(testbed.namespace[name])
    group = testbed.groups[rank] if testbed.groups else None
    output = None if rank == 0 else subprocess.PIPE
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if rank == 0 else subprocess.STDOUT,
            env={**os.environ, **rank_environment(testbed, rank)},
            start_new_session=True,
            preexec_fn=lambda: confine(namespace, group),
        )
    except OSError as error:
        raise InputError(f"the command '{command[0]}' cannot be run ({error.strerror})") from None
    except subprocess.SubprocessError:
        raise InputError(
            f"the rank of {name!r} cannot enter its namespace and control group"
        ) from None
    finally:
        os.close(namespace)
    if process.stdout:
        os.set_blocking(process.stdout.fileno(), False)
    return _Rank(name, process, os.pidfd_open(process.pid))


def confine(namespace: int, group: Path | None) -> None:
    """Move this process into an open namespace and a control group, and let it end with the process
    that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    enter(namespace)
    if group:
        (group / "cgroup.procs").write_text("0")


def _watch(
    ranks: list[_Rank],
    verbose: bool,
    show: Callable[[str], None],
    tick: Callable[[], float],
) -> int:
    """Follow the ranks until all have ended; signals can interrupt only where it waits."""
    code = 0
    kill_at = math.inf
    is_ending = False
    selector = selectors.DefaultSelector()
    for rank in ranks:
        selector.register(rank.process_file, selectors.EVENT_READ, rank)
        if rank.process.stdout:
            selector.register(rank.process.stdout, selectors.EVENT_READ, rank)
    num_running = len(ranks)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        while num_running:
            until_kill_s = max(0.0, kill_at - time.monotonic())
            wait_s = min(until_kill_s, tick())
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
                events = selector.select(None if wait_s == math.inf else wait_s)
                signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
            except Interrupted as interruption:
                signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
                again, is_ending = is_ending, True
                code = code or 128 + interruption.number
                kill_at = time.monotonic() + (0.0 if again else INTERRUPT_WAIT_S)
                _signal_all(ranks, signal.Signals(interruption.number))
                continue
            for key, _ in events:
                rank = key.data
                if key.fileobj != rank.process_file:
                    if not _read(rank, verbose, show):
                        selector.unregister(key.fileobj)
                    continue
                selector.unregister(key.fileobj)
                num_running -= 1
                status = rank.process.wait()
                if status and not is_ending:
                    is_ending = True
                    code = status if status > 0 else 128 - status
                    kill_at = time.monotonic() + END_WAIT_S
                    _report(rank, code, rank is not ranks[0] and not verbose, show)
                    _signal_all(ranks, signal.SIGTERM)
            if time.monotonic() >= kill_at:
                _signal_all(ranks, signal.SIGKILL)
                kill_at = math.inf
        for rank in ranks:
            _drain(rank, verbose, show)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
        selector.close()
    return code


def _read(rank: _Rank, verbose: bool, show: Callable[[str], None]) -> bool:
    """Take what a rank has written; whether it may write more."""
    assert rank.process.stdout is not None
    content = os.read(rank.process.stdout.fileno(), 1 << 16)
    *lines, rank.rest = (rank.rest + content).split(b"\n")
    if not content and rank.rest:
        lines.append(rank.rest)
        rank.rest = b""
    for line in lines:
        text = line.decode(errors="replace")
        rank.lines.append(text)
        if verbose:
            show(f"{rank.name}: {text}")
    return bool(content)


def _report(rank: _Rank, code: int, with_lines: bool, show: Callable[[str], None]) -> None:
    if with_lines:
        _drain(rank, False, show)
        for line in rank.lines:
            show(f"{rank.name}: {line}")
    show(f"{rank.name} ended with exit code {code}; the other ranks are ended")


def _drain(rank: _Rank, verbose: bool, show: Callable[[str], None]) -> None:
    """Take what a rank that has ended wrote last."""
    if rank.process.stdout:
        with contextlib.suppress(BlockingIOError):
            while _read(rank, verbose, show):
                pass


def _signal_all(ranks: Sequence[_Rank], number: signal.Signals) -> None:
    for rank in ranks:
        if rank.process.returncode is None:
            _signal_group(rank, number)


def _signal_group(rank: _Rank, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(rank.process.pid, number)
