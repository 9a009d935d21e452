"""How long one exchange takes: all its messages start together, the last one ends it."""

import numpy as np

from d2ft_sched.cluster import Cluster
from sim.switch import switch_seconds


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


def exchange_seconds(cluster: Cluster, pair_bytes: np.ndarray) -> float:
    """Seconds until every message has arrived.

    The busiest link works without pause, after the longest latency. Under max-min fair sharing that
    is exact for messages of one size and one latency, and a lower bound for others;
    `sim.flows.simulate_flows` says how long those take.
    """
    if not pair_bytes.any():
        return 0.0
    if cluster.is_non_blocking_switch:
        return float(switch_seconds(cluster, pair_bytes))
    loads = link_loads(cluster, pair_bytes)
    shared = np.bincount(cluster.link_channel, weights=loads, minlength=len(loads))
    busiest_s = float((shared / cluster.link_bandwidth_bytes_per_s).max())
    return busiest_s + float(cluster.path_latency_s()[pair_bytes > 0].max())
