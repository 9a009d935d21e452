"""What a testbed really gives, by plain sockets and busy loops, beside what was asked of it."""

import multiprocessing
import os
import signal
import socket
import statistics
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from d2ft_sched.errors import InputError
from runtime.testbed.namespaces import inside
from runtime.testbed.open_testbed import ENDING_SIGNALS, Testbed

PROBE_S = 0.5
"""Seconds that the large message of a link takes at the bandwidth asked."""

MESSAGE_BYTES = 256 * 1024
"""Size of the messages of a plan, in the order of magnitude."""

SETTLE_S = 0.1
"""Before a share is measured: until the group's quota holds."""
BUSY_S = 3.0
"""Over which it is measured."""
PAUSE_S = 0.005
"""Between messages, so that none waits for what the last left in a queue."""

_NUM_PINGS = 40
_NUM_MESSAGES = 7
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class LinkCheck:
    """One direction of a link.

    Attributes:
        source, target: nodes.
        asked_bytes_per_s, bytes_per_s: bandwidth.
        asked_latency_s, latency_s: half of the time there and back of one byte.
        asked_message_s, message_s: bandwidth and latency together for `MESSAGE_BYTES`.
    """

    source: str
    target: str
    asked_bytes_per_s: float
    bytes_per_s: float
    asked_latency_s: float
    latency_s: float
    asked_message_s: float
    message_s: float


@dataclass(frozen=True)
class ShareCheck:
    """Cores that a device was to get and got, while all devices were busy."""

    device: str
    asked_cores: float
    cores: float


def check_links(testbed: Testbed) -> list[LinkCheck]:
    """Send messages over both directions of every link, one link at a time."""
    return [
        _check_link(testbed, source, target, link.bandwidth_bytes_per_s, link.latency_s)
        for link in testbed.cluster.links
        for source, target in ((link.source, link.target), (link.target, link.source))
    ]


def _check_link(
    testbed: Testbed, source: str, target: str, bandwidth: float, latency_s: float
) -> LinkCheck:
    address = (testbed.wiring.address[target], 5000)
    with inside(testbed.namespace[target]):
        listener = socket.create_server(address)
    with listener:
        with inside(testbed.namespace[source]):
            sender = socket.create_connection(address, timeout=30)
        sender.settimeout(None)
        receiver, _ = listener.accept()
    with sender, receiver:
        for end in (sender, receiver):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        large = max(_CHUNK_BYTES, int(bandwidth * PROBE_S))
        round_trip_s = _median_s(sender, receiver, 1, _NUM_PINGS)
        message_s = _median_s(sender, receiver, MESSAGE_BYTES, _NUM_MESSAGES)
        large_s = _median_s(sender, receiver, large, 1)
    return LinkCheck(
        source,
        target,
        bandwidth,
        (large - MESSAGE_BYTES) / (large_s - message_s),
        latency_s,
        round_trip_s / 2,
        latency_s + MESSAGE_BYTES / bandwidth,
        message_s - round_trip_s / 2,
    )


def _median_s(
    sender: socket.socket, receiver: socket.socket, num_bytes: int, num_times: int
) -> float:
    """Seconds until messages of a size, each sent after the last, are confirmed by one byte."""

    def serve() -> None:
        for _ in range(num_times):
            _receive(receiver, num_bytes)
            receiver.sendall(b"\1")

    other_end = threading.Thread(target=serve, daemon=True)
    other_end.start()
    seconds = []
    message = bytes(num_bytes)
    for _ in range(num_times):
        time.sleep(PAUSE_S)
        start = time.perf_counter()
        sender.sendall(message)
        _receive(sender, 1)
        seconds.append(time.perf_counter() - start)
    other_end.join()
    return statistics.median(seconds)


def _receive(end: socket.socket, num_bytes: int) -> None:
    buffer = bytearray(min(num_bytes, _CHUNK_BYTES))
    while num_bytes:
        received = end.recv_into(buffer, min(num_bytes, len(buffer)))
        if not received:
            raise ConnectionError("the other end closed a probe")
        num_bytes -= received


def check_shares(testbed: Testbed) -> list[ShareCheck]:
    """Let all devices compute at once; none where shares are not limited.

    Raises:
        InputError: a process that is to compute ends before.
    """
    if testbed.cores is None:
        return []
    start = multiprocessing.get_context("fork")
    pipes = [start.Pipe(duplex=False) for _ in testbed.groups]
    workers = [
        start.Process(target=_be_busy, args=(group, sender), daemon=True)
        for group, (_, sender) in zip(testbed.groups, pipes, strict=True)
    ]
    for worker in workers:
        worker.start()
    for _, sender in pipes:
        sender.close()
    cores = []
    for device, worker, (receiver, _) in zip(testbed.cluster.devices, workers, pipes, strict=True):
        try:
            cores.append(receiver.recv())
        except EOFError:
            raise InputError(f"the CPU share of {device.name!r} cannot be measured") from None
        worker.join()
    return [
        ShareCheck(device.name, asked, got)
        for device, asked, got in zip(testbed.cluster.devices, testbed.cores, cores, strict=True)
    ]


def _be_busy(group: Path, result: Connection) -> None:
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        return
    time.sleep(SETTLE_S)
    start, start_cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < BUSY_S:
        sum(range(1000))
    result.send((time.process_time() - start_cpu) / (time.perf_counter() - start))
