"""Bandwidth and latency of an interface by queueing disciplines (``tc``)."""

from d2ft_sched.cluster.cluster import Link
from d2ft_sched.errors import InputError
from runtime.testbed.commands import run_command
from runtime.testbed.namespaces import create_namespace, delete_namespace

SMALLEST_MTU, LARGEST_MTU = 1500, 9000
PACKET_S = 2.5e-4
"""Time that a packet may take on the slowest link: packets are rather large, which spares
processor time, but small beside the messages of a plan."""

BURST_S = 2e-4
"""What the token bucket holds beyond one packet: as much as passes while a timer is late. The
first packets of a message pass at once for as long, so it is small."""

QUEUE_BYTES = 64 * 10**6
"""Waiting packets are not dropped, since a retransmission would take longer than an exchange."""

_QUEUE_PACKETS = 10**6
_ETHERNET_BYTES, _TCP_IP_BYTES = 14, 52


def packet_bytes(links: tuple[Link, ...]) -> int:
    """The largest packet (MTU) on all links of a cluster."""
    slowest = min((link.bandwidth_bytes_per_s for link in links), default=0.0)
    return int(min(max(slowest * PACKET_S, SMALLEST_MTU), LARGEST_MTU))


def shape(namespace: str, interface: str, link: Link, mtu: int, *, delay: bool) -> None:
    """Let what leaves through an interface have the bandwidth, and if asked the latency, of a link.

    The bandwidth is that of the messages: the headers of packets come on top of it.

    Raises:
        InputError: the kernel lacks the token bucket filter.
    """
    frame = mtu + _ETHERNET_BYTES
    rate = link.bandwidth_bytes_per_s * frame / (mtu - _TCP_IP_BYTES)
    burst = frame + rate * BURST_S
    here = ["tc", "-n", namespace, "qdisc", "add", "dev", interface]
    bucket = f"handle 1: tbf rate {rate * 8:.0f}bit burst {burst:.0f} limit {QUEUE_BYTES}"
    run_command([*here, "root", *bucket.split()])
    if delay and link.latency_s > 0:
        later = f"handle 2: netem delay {link.latency_s * 1e6:.3f}us limit {_QUEUE_PACKETS}"
        run_command([*here, "parent", "1:1", *later.split()])


def can_delay(prefix: str) -> bool:
    """Whether the kernel can delay packets (netem), tried on a loopback."""
    name = f"{prefix}-try"
    create_namespace(name)
    try:
        run_command(f"tc -n {name} qdisc add dev lo root netem delay 1ms".split())
    except InputError:
        return False
    finally:
        delete_namespace(name)
    return True
