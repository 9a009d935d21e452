"""The cluster with something faster, slower or gone: pure functions from cluster to cluster."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import networkx as nx

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.errors import InputError


def scale_compute(cluster: Cluster, factor: float, device: str | None = None) -> Cluster:
    """A device, or all of them, `factor` times as fast: FLOP/s and memory bandwidth alike.

    Measured curves are scaled as a whole; the launch time of a device without curves stays.

    Raises:
        InputError: there is no such device, or the factor is not above 0 and finite.
    """
    chosen = range(len(cluster.devices)) if device is None else [cluster.device_index(device)]
    return with_faster_devices(cluster, chosen, factor)


def with_faster_devices(cluster: Cluster, chosen: Collection[int], factor: float) -> Cluster:
    """As `scale_compute`, for some devices by index."""
    return replace(
        cluster,
        devices=tuple(
            d.scaled(compute=factor, memory_bandwidth=factor) if index in chosen else d
            for index, d in enumerate(cluster.devices)
        ),
    )


def scale_bandwidth(cluster: Cluster, factor: float, link: str | None = None) -> Cluster:
    """Links with `factor` times the bandwidth in both directions.

    Args:
        cluster: to change.
        factor: above 0.
        link: which, as `links_called` reads it; None for all.

    Raises:
        InputError: there is no such link, or the factor is not above 0 and finite.
    """
    if not 0 < factor < float("inf"):
        raise InputError(f"bandwidth is scaled by {factor}; the factor must be above 0 and finite")
    return with_wider_links(cluster, links_called(cluster, link), factor)


def with_wider_links(cluster: Cluster, chosen: Collection[int], factor: float) -> Cluster:
    """As `scale_bandwidth`, for some links by index."""
    return _with_links(
        cluster,
        [
            replace(k, bandwidth_bytes_per_s=k.bandwidth_bytes_per_s * factor)
            if index in chosen
            else k
            for index, k in enumerate(cluster.links)
        ],
    )


def scale_latency(cluster: Cluster, factor: float, link: str | None = None) -> Cluster:
    """Links with `factor` times the latency, 0 for none; `link` as in `scale_bandwidth`.

    Raises:
        InputError: there is no such link, or the factor is negative or not finite.
    """
    if not 0 <= factor < float("inf"):
        raise InputError(f"latency is scaled by {factor}; the factor must be 0 or more and finite")
    chosen = links_called(cluster, link)
    return _with_links(
        cluster,
        [
            replace(k, latency_s=k.latency_s * factor) if index in chosen else k
            for index, k in enumerate(cluster.links)
        ],
    )


def links_called(cluster: Cluster, name: str | None) -> frozenset[int]:
    """Links by name, as indices.

    Args:
        cluster: with the links.
        name: a device or switch for all links that end there, two of them as "a:b" for the link
            between them, None for all links.

    Raises:
        InputError: there is none.
    """
    if name is None:
        return frozenset(range(len(cluster.links)))
    found = frozenset(
        index
        for index, k in enumerate(cluster.links)
        if name in (k.source, k.target, f"{k.source}:{k.target}", f"{k.target}:{k.source}")
    )
    if not found:
        pairs = ", ".join(f"{k.source}:{k.target}" for k in cluster.links) or "no links"
        raise InputError(
            f"cluster {cluster.name!r} has no link {name!r}; it has {pairs}; a device's or "
            f"switch's name stands for all of its links"
        )
    return found


def drop_devices(cluster: Cluster, names: Sequence[str]) -> Cluster:
    """The cluster without some devices, their links, and switches that join no device any more.

    Raises:
        InputError: there is no such device, none is left, or those left are not joined any more.
    """
    gone = {cluster.devices[cluster.device_index(name)].name for name in names}
    devices = tuple(d for d in cluster.devices if d.name not in gone)
    if not devices:
        raise InputError(f"cluster {cluster.name!r}: every device is dropped; leave at least 1")
    links = tuple(k for k in cluster.links if not gone & {k.source, k.target})
    graph = nx.Graph((k.source, k.target) for k in links)
    graph.add_nodes_from(d.name for d in devices)
    reached = set().union(*(nx.node_connected_component(graph, d.name) for d in devices))
    return replace(
        cluster,
        devices=devices,
        links=tuple(k for k in links if k.source in reached),
        switches=tuple(s for s in cluster.switches if s in reached),
    )


def _with_links(cluster: Cluster, links: Sequence[Link]) -> Cluster:
    return replace(cluster, links=tuple(links))
