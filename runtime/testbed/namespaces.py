"""Network namespaces by name, as ``ip netns`` keeps them."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from d2ft_sched.errors import InputError
from runtime.testbed.commands import run_command

FOLDER = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_SETTINGS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/tcp_slow_start_after_idle": "0",
    "net/ipv4/tcp_no_metrics_save": "1",
    "net/ipv4/tcp_congestion_control": "reno",
    "net/ipv4/tcp_rmem": "4096 16777216 33554432",
    "net/ipv4/tcp_wmem": "4096 4194304 33554432",
    "net/ipv4/tcp_limit_output_bytes": "32768",
}
"""Links lose no packets, so that Reno (RFC 5681) with large buffers never slows down: links are
busy as long as anybody has something to send, as simulators of flows assume. Cubic backs off when
delays grow, and links full in both directions at once then idle for a tenth of the time or more.
Each connection puts little at a time into the queue of its interface, so that they share it."""


def namespace_names() -> list[str]:
    """Names of all network namespaces of this machine."""
    return sorted(path.name for path in FOLDER.iterdir()) if FOLDER.is_dir() else []


def create_namespace(name: str) -> None:
    """Make a namespace that forwards packets and whose connections stay fast after a pause."""
    run_command(["ip", "netns", "add", name])
    run_command(["ip", "-n", name, "link", "set", "lo", "up"])
    with inside(name):
        for setting, value in _SETTINGS.items():
            path = Path("/proc/sys", setting)
            try:
                path.write_text(value)
            except OSError as error:
                raise InputError(
                    f"the testbed cannot write {path} ({error.strerror}); in a container it needs "
                    f"a writable /proc/sys (--privileged)"
                ) from None


def delete_namespace(name: str) -> None:
    """End what still runs in a namespace and remove it."""
    for pid in _pids(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run_command(["ip", "netns", "del", name])


def _pids(name: str) -> list[int]:
    pids = map(int, run_command(["ip", "netns", "pids", name]).split())
    return [pid for pid in pids if pid != os.getpid()]


def enter(descriptor: int) -> None:
    """Move this thread to the namespace of an open file; its sockets are made there from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "setns")


def open_namespace(name: str) -> int:
    """A descriptor for `enter`; the caller closes it."""
    return os.open(FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Let this thread be in a namespace for a while.

    A socket belongs to the namespace it was made in, so those made inside can be used outside.
    """
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = open_namespace(name)
    try:
        enter(there)
        yield
    finally:
        enter(here)
        os.close(there)
        os.close(here)
