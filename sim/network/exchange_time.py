"""How long one exchange takes: all its messages are sent together, the last one ends it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from sim.network.flows import Flows, simulate_flows
from sim.network.switch import switch_seconds

MAX_SIMULATED_MESSAGES = 20_000
"""Larger exchanges are given their lower bound: among so many messages the busiest link hardly ever
idles (in `make bench` the two agree to less than 1 % there), and simulating takes seconds."""

MAX_STACKED_DEVICES = 128
"""Above, exchanges on a switch are timed one by one: stacked copies would take more than calls."""


def link_loads(cluster: Cluster, pair_bytes: np.ndarray) -> np.ndarray:
    """Bytes over every directed link, float ``[num_directed_links]``.

    Args:
        cluster: whose routes are taken.
        pair_bytes: from row to column device, ``[num_devices, num_devices]``.
    """
    source, target = np.nonzero(pair_bytes)
    routes = cluster.routes(source, target)
    bytes_of_step = np.repeat(pair_bytes[source, target], np.diff(routes.offsets))
    return np.bincount(
        routes.links, weights=bytes_of_step, minlength=len(cluster.link_bandwidth_bytes_per_s)
    )


def channel_seconds(cluster: Cluster, carried: np.ndarray) -> np.ndarray:
    """Seconds that what links carry takes on each channel at its full bandwidth.

    Args:
        cluster: with the links.
        carried: bytes, as of `link_loads`.

    Returns:
        float ``[num_directed_links]``; 0 for directed links that are not a channel of their own.
    """
    shared = np.bincount(cluster.link_channel, weights=carried, minlength=len(carried))
    return shared / cluster.link_bandwidth_bytes_per_s


def exchange_seconds(cluster: Cluster, pair_bytes: np.ndarray) -> float:
    """Seconds until every message of an exchange has arrived, one message per pair of devices.

    On a non-blocking switch it is the closed form `switch_seconds`, which messages of unequal sizes
    or latencies may exceed under max-min fair sharing (by 8 % at most in 600 random exchanges of
    unequal sizes, mostly not).
    Elsewhere it is what they take under max-min fair sharing: the bounds of `exchange_bounds` where
    these agree, as for messages of one size and latency, and else the flow engine.

    The closed form and both bounds never grow with bandwidth or with fewer bytes. Fair sharing as
    such does not promise it: a message that runs faster may slow down the one that ends last. It
    is rare (in 6,000 random changes of steps on trees, rings and islands one step got longer, by
    0.1 %), but a test shows an exchange that takes an eighth longer without one of its messages.

    Args:
        cluster: links and routes.
        pair_bytes: from row to column device, ``[num_devices, num_devices]``; what a device sends
            to itself takes no time.
    """
    messages = np.where(np.eye(len(cluster.devices), dtype=bool), 0, pair_bytes)
    if not messages.any():
        return 0.0
    if cluster.is_non_blocking_switch:
        return float(switch_seconds(cluster, messages))
    least_s, most_s = exchange_bounds(cluster, messages)
    if most_s <= least_s * (1 + 1e-12) or np.count_nonzero(messages) > MAX_SIMULATED_MESSAGES:
        return least_s
    return float(simulate_flows(cluster, Flows.from_matrix(messages)).max())


def exchange_bounds(cluster: Cluster, pair_bytes: np.ndarray) -> tuple[float, float]:
    """Least and most seconds that an exchange may take under max-min fair sharing.

    Least: of the messages on a link, those that arrive there after a latency have all their bytes
    carried after it, whichever latency is looked at; so fewer bytes never raise it. Most: a message
    never gets less than the smallest of the equal shares of the links on its route among all that
    ever cross them, for in a max-min fair allocation its bottleneck gives it no less than it gives
    any other (Bertsekas and Gallager, Data Networks, 1992, section 6.5).

    Args:
        cluster: links and routes.
        pair_bytes: as in `exchange_seconds`, with at least one message and an empty diagonal.
    """
    source, target = np.nonzero(pair_bytes)
    size = pair_bytes[source, target].astype(float)
    routes = cluster.routes(source, target)
    first, message = routes.offsets[:-1], np.repeat(np.arange(len(size)), np.diff(routes.offsets))
    latency_s = np.add.reduceat(cluster.link_latency_s[routes.links], first)
    channel = cluster.link_channel[routes.links]
    bandwidth = cluster.link_bandwidth_bytes_per_s

    begin_s = latency_s[message]
    late_first = np.lexsort((-begin_s, channel))
    on_link = channel[late_first]
    carried = np.cumsum(size[message][late_first])
    starts = np.flatnonzero(np.diff(on_link, prepend=-1))
    before = np.concatenate([[0.0], carried])[starts]
    carried -= np.repeat(before, np.diff(starts, append=len(on_link)))
    least_s = begin_s[late_first] + carried / bandwidth[on_link]
    crossing = np.bincount(channel, minlength=len(bandwidth))
    fair_s = latency_s + size * np.maximum.reduceat((crossing / bandwidth)[channel], first)
    return float(least_s.max()), float(fair_s.max())


@dataclass(frozen=True)
class ExchangeTimes:
    """`exchange_seconds` of many exchanges on one cluster, each distinct one computed once."""

    cluster: Cluster
    _known: dict[bytes, float] = field(default_factory=dict, repr=False)

    def seconds_of_each(self, exchanges: Sequence[np.ndarray]) -> list[float]:
        """Seconds of every exchange; arguments as in `exchange_seconds`."""
        num_devices = len(self.cluster.devices)
        if self.cluster.is_non_blocking_switch and num_devices <= MAX_STACKED_DEVICES:
            return switch_seconds(self.cluster, np.stack(exchanges)).tolist()
        return [self.seconds(e) for e in exchanges]

    def seconds(self, pair_bytes: np.ndarray) -> float:
        """Seconds of one exchange; arguments as in `exchange_seconds`."""
        if self.cluster.is_non_blocking_switch:
            return exchange_seconds(self.cluster, pair_bytes)
        key = pair_bytes.tobytes()
        if key not in self._known:
            self._known[key] = exchange_seconds(self.cluster, pair_bytes)
        return self._known[key]

    @cached_property
    def is_mirrored(self) -> bool:
        """Whether all routes lead back over the links by which they came, so that an exchange
        takes as long as the opposite one."""
        if self.cluster.is_non_blocking_switch:
            return True
        num_devices = len(self.cluster.devices)
        source, target = np.divmod(np.arange(num_devices**2), num_devices)
        there, back = self.cluster.routes(source, target), self.cluster.routes(target, source)
        if (there.offsets != back.offsets).any():
            return False
        length = np.diff(there.offsets)
        position = np.arange(len(there.links)) - np.repeat(there.offsets[:-1], length)
        mirror = np.repeat(there.offsets[1:], length) - 1 - position
        return bool((there.links == back.links[mirror] ^ 1).all())
