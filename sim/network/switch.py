"""Exchanges on a non-blocking switch in closed form."""

import numpy as np
from numpy.typing import ArrayLike

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError


def switch_seconds(cluster: Cluster, pair_bytes: ArrayLike) -> np.ndarray:
    """Seconds until all messages have crossed the switch, for many exchanges at once.

    What the busiest port takes: it works without pause once its messages are there, after their
    latency. Where ports have latencies of their own, of a port's messages those with at least a
    certain latency begin after it, whichever latency is looked at (as in
    `sim.network.exchange_time.exchange_bounds`). This is exact for messages of one size and one
    latency, see `is_exact`: the equal share at the busiest port is the smallest of all shares and,
    as shares only grow when messages end elsewhere, stays so; all its messages get just that share
    to their end, and no other message gets less. With sizes or latencies that differ, max-min fair
    sharing may leave the busiest port partly idle for a while; then the messages take at least
    this long, and `sim.network.flows.simulate_flows` says how long.

    Args:
        cluster: one non-blocking switch (`Cluster.is_non_blocking_switch`).
        pair_bytes: from row to column device, ``[..., num_devices, num_devices]``; the diagonal is
            ignored.

    Returns:
        float ``[...]``; 0 for an exchange without messages.

    Raises:
        InputError: the cluster is not one non-blocking switch.
    """
    messages = _messages(cluster, pair_bytes)
    bandwidth = cluster.device_bandwidth_bytes_per_s()
    port_s = _port_latency_s(cluster)
    if (port_s != port_s[0]).any():
        both_ways = (messages, messages.swapaxes(-1, -2))
        return np.maximum(*(_busiest_sender_s(m, bandwidth, port_s) for m in both_ways))
    sent_s = messages.sum(axis=-1) / bandwidth
    received_s = messages.sum(axis=-2) / bandwidth
    busiest_s = np.maximum(sent_s, received_s).max(axis=-1)
    return busiest_s + np.where(busiest_s > 0, 2 * port_s[0], 0.0)


def _busiest_sender_s(
    messages: np.ndarray, bandwidth: np.ndarray, port_s: np.ndarray
) -> np.ndarray:
    """Until the last sender is done whose messages begin after the latencies of both ports."""
    late_first = np.argsort(-port_s)
    messages = messages[..., late_first]
    carried_s = messages.cumsum(axis=-1) / bandwidth[:, None]
    done_s = port_s[:, None] + port_s[late_first] + carried_s
    return np.where(messages > 0, done_s, 0.0).max(axis=(-2, -1))


def is_exact(cluster: Cluster, pair_bytes: ArrayLike) -> np.ndarray:
    """Whether `switch_seconds` is what max-min fair sharing takes, bool ``[...]``: all messages of
    an exchange have one size and one latency."""
    messages = _messages(cluster, pair_bytes)
    sent = messages > 0
    exact = np.ones(messages.shape[:-2], dtype=bool)
    port_s = _port_latency_s(cluster)
    for values in (messages, np.broadcast_to(port_s[:, None] + port_s, messages.shape)):
        largest = np.where(sent, values, -np.inf).max(axis=(-2, -1))
        smallest = np.where(sent, values, np.inf).min(axis=(-2, -1))
        exact &= ~(largest > smallest * (1 + 1e-12))
    return exact


def _messages(cluster: Cluster, pair_bytes: ArrayLike) -> np.ndarray:
    if not cluster.is_non_blocking_switch:
        raise InputError(
            f"cluster {cluster.name!r} is not one non-blocking switch with full-duplex links; "
            f"simulate its flows instead"
        )
    messages = np.asarray(pair_bytes, dtype=float)
    if messages.diagonal(axis1=-2, axis2=-1).any():
        messages = messages * ~np.eye(len(cluster.devices), dtype=bool)
    return messages


def _port_latency_s(cluster: Cluster) -> np.ndarray:
    port = np.zeros(len(cluster.devices))
    for link in cluster.links:
        device = link.source if link.target == cluster.switches[0] else link.target
        port[cluster.device_index(device)] = link.latency_s
    return port
