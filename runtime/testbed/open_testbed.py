"""A testbed from its making to its removal."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from runtime.testbed.commands import require_testbed, run_command
from runtime.testbed.cpu_shares import Hierarchy, find_hierarchy, shares
from runtime.testbed.cpu_slices import refine_slices, restore_slices
from runtime.testbed.namespaces import create_namespace, delete_namespace, namespace_names
from runtime.testbed.owner import is_stale, own_prefix
from runtime.testbed.shaping import can_delay, packet_bytes, shape
from runtime.testbed.wiring import Wiring, wire

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal that asks the process to end arrived while a testbed was open."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Testbed:
    """A cluster as namespaces of this machine.

    Attributes:
        cluster: what was asked for.
        wiring: addresses, interfaces and routes of its nodes.
        namespace: by name of node.
        cores: CPU share of each device; None where shares are not limited.
        groups: control group of each device; empty where shares are not limited.
        hierarchy: where the groups are; None where shares are not limited.
        has_latency: whether the links have their latency; where the kernel cannot delay packets
            they have only that of the machine itself.
    """

    cluster: Cluster
    wiring: Wiring
    namespace: dict[str, str]
    cores: tuple[float, ...] | None
    groups: tuple[Path, ...]
    hierarchy: Hierarchy | None
    has_latency: bool

    def scale_share(self, device: str, factor: float) -> None:
        """Give a device `factor` times its CPU share, from now on.

        Raises:
            InputError: there is no such device, or shares are not limited.
        """
        index = self.cluster.device_index(device)
        if self.cores is None or self.hierarchy is None:
            raise InputError(f"device {device!r} has no CPU share that could change")
        self.hierarchy.limit(self.groups[index], factor * self.cores[index])


@contextlib.contextmanager
def open_testbed(
    cluster: Cluster, *, cpu_shares: bool = True, cores_per_unit: float | None = None
) -> Iterator[Testbed]:
    """Make namespaces, links and control groups, and remove them at the end, whatever ends it.

    Meanwhile SIGINT, SIGTERM and SIGHUP raise `Interrupted` in the main thread, where this has to
    be called. What a killed process left behind is removed first.

    Args:
        cluster: of any topology of full-duplex links, see `wire`.
        cpu_shares: limit the CPU share of each device by its relative speed.
        cores_per_unit: cores of the fastest device, see `shares`.

    Raises:
        InputError: the testbed cannot be made here; one line says what it needs.
    """
    wiring = wire(cluster)
    require_testbed()
    cores = shares(cluster, cores_per_unit) if cpu_shares else None
    hierarchy = find_hierarchy() if cpu_shares else None
    prefix = own_prefix()
    with _signals_raise(), contextlib.ExitStack() as cleanup:
        _remove_stale(hierarchy)
        if hierarchy:
            cleanup.callback(_unstoppable, lambda: restore_slices(hierarchy))
        cleanup.callback(_unstoppable, lambda: _remove(prefix, hierarchy))
        delay = any(link.latency_s > 0 for link in cluster.links) and can_delay(prefix)
        namespace = _build(cluster, wiring, prefix, delay)
        groups: list[Path] = []
        if hierarchy and cores:
            groups = hierarchy.create(prefix, cores)
            refine_slices()
        yield Testbed(cluster, wiring, namespace, cores, tuple(groups), hierarchy, delay)


def _build(cluster: Cluster, wiring: Wiring, prefix: str, delay: bool) -> dict[str, str]:
    namespace = {node: f"{prefix}-{i}" for i, node in enumerate(cluster.nodes)}
    for name in namespace.values():
        create_namespace(name)
    mtu = packet_bytes(cluster.links)
    for cable in wiring.cables:
        ends = (
            (cable.link.source, cable.source_interface),
            (cable.link.target, cable.target_interface),
        )
        (source, first), (target, second) = ends
        run_command(
            f"ip link add name {first} mtu {mtu} netns {namespace[source]} type veth "
            f"peer name {second} mtu {mtu} netns {namespace[target]}".split()
        )
        for node, interface in ends:
            here = ["ip", "-n", namespace[node]]
            address = wiring.address[node]
            run_command([*here, *f"addr add {address}/32 dev {interface}".split()])
            run_command([*here, *f"link set {interface} up".split()])
            shape(namespace[node], interface, cable.link, mtu, delay=delay)
    for route in wiring.routes:
        target, via = wiring.address[route.target], wiring.address[route.via]
        step = f"via {via} dev {route.interface} onlink src {wiring.address[route.node]}"
        run_command(
            ["ip", "-n", namespace[route.node], "route", "add", f"{target}/32", *step.split()]
        )
    return namespace


def _remove(prefix: str, hierarchy: Hierarchy | None) -> None:
    with contextlib.ExitStack() as cleanup:
        if hierarchy and prefix in hierarchy.names():
            cleanup.callback(hierarchy.remove, prefix)
        for name in namespace_names():
            if name.startswith(f"{prefix}-"):
                cleanup.callback(delete_namespace, name)


def _remove_stale(hierarchy: Hierarchy | None) -> None:
    for name in filter(is_stale, namespace_names()):
        delete_namespace(name)
    if hierarchy:
        hierarchy.remove_stale()


def _unstoppable(work: Callable[[], object]) -> None:
    """Do `work` with the ending signals held back."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        work()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    previous = {number: signal.signal(number, interrupt) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
