"""Common networks: from device names and a kind of cable to links and switches."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from d2ft_sched.cluster.cluster import Duplex, Link
from d2ft_sched.errors import InputError
from d2ft_sched.files.sizes import MOST_LINKS, check_at_most


@dataclass(frozen=True)
class Cable:
    """What a link is made of: bandwidth in bytes/s, latency in seconds, duplex as in `Link`."""

    bandwidth_bytes_per_s: float
    latency_s: float
    duplex: Duplex = "full"

    def join(self, source: str, target: str) -> Link:
        return Link(source, target, self.bandwidth_bytes_per_s, self.latency_s, self.duplex)


@dataclass(frozen=True)
class Network:
    """Links and switches of a cluster, and the name of their arrangement."""

    topology: str
    links: tuple[Link, ...]
    switches: tuple[str, ...] = ()


def full_mesh(
    devices: Sequence[str], cable: Cable, overrides: Mapping[frozenset[str], Cable] | None = None
) -> Network:
    """A link between any two devices; `overrides` by pair of names."""
    num_links = math.comb(len(devices), 2)
    check_at_most(f"{num_links} links of a full mesh", num_links, MOST_LINKS, "name a switch")
    special = overrides or {}
    links = tuple(
        special.get(frozenset(pair), cable).join(*pair)
        for pair in itertools.combinations(devices, 2)
    )
    return Network("full_mesh", links)


def star(
    devices: Sequence[str],
    cable: Cable,
    overrides: Mapping[str, Cable] | None = None,
    switch: str = "switch",
) -> Network:
    """Every device on one switch; `overrides` by device name."""
    special = overrides or {}
    links = tuple(special.get(name, cable).join(name, switch) for name in devices)
    return Network("star", links, (switch,))


def ring(devices: Sequence[str], cable: Cable) -> Network:
    """Each device linked to the next, the last to the first."""
    return Network("ring", torus(devices, (len(devices),), cable).links)


def torus(devices: Sequence[str], sizes: Sequence[int], cable: Cable) -> Network:
    """A grid that wraps around in every dimension; devices in row-major order.

    Raises:
        InputError: `sizes` do not multiply to the number of devices.
    """
    if math.prod(sizes) != len(devices) or min(sizes, default=0) < 1:
        raise InputError(
            f"a torus of {' x '.join(map(str, sizes))} has {math.prod(sizes)} places; there are "
            f"{len(devices)} devices"
        )
    links: dict[frozenset[str], Link] = {}
    for here in itertools.product(*map(range, sizes)):
        for axis, size in enumerate(sizes):
            there = (*here[:axis], (here[axis] + 1) % size, *here[axis + 1 :])
            if there != here:
                ends = tuple(devices[_row_major(place, sizes)] for place in (here, there))
                links.setdefault(frozenset(ends), cable.join(*ends))
    return Network("torus", tuple(links.values()))


def _row_major(place: Sequence[int], sizes: Sequence[int]) -> int:
    index = 0
    for x, size in zip(place, sizes, strict=True):
        index = index * size + x
    return index


def tree(
    devices: Sequence[str],
    devices_per_leaf: int,
    cable: Cable,
    oversubscription: float = 1.0,
    uplink_latency_s: float | None = None,
) -> Network:
    """Two levels: devices in order under leaf switches, those under one core switch.

    Args:
        devices: names.
        devices_per_leaf: devices under one leaf switch; the last may have fewer.
        cable: between device and leaf.
        oversubscription: bandwidth of a leaf's devices together over that of its uplink.
        uplink_latency_s: default that of `cable`.
    """
    leaves = [
        devices[start : start + devices_per_leaf]
        for start in range(0, len(devices), devices_per_leaf)
    ]
    uplink = replace(
        cable,
        bandwidth_bytes_per_s=cable.bandwidth_bytes_per_s * devices_per_leaf / oversubscription,
        latency_s=cable.latency_s if uplink_latency_s is None else uplink_latency_s,
    )
    return _two_levels("tree", leaves, cable, uplink, "leaf", "core")


def islands(groups: Sequence[Sequence[str]], cable: Cable, uplink: Cable) -> Network:
    """Groups of devices with fast links inside (NVLink), joined by slower ones (Ethernet).

    Devices of a group hang on the group's own switch by `cable`; every group's switch hangs on one
    switch between the groups by `uplink`, which its devices share.
    """
    return _two_levels("islands", groups, cable, uplink, "island", "ethernet")


def _two_levels(
    topology: str,
    groups: Sequence[Sequence[str]],
    cable: Cable,
    uplink: Cable,
    lower: str,
    upper: str,
) -> Network:
    switches = [f"{lower}{g}" for g in range(len(groups))]
    links = [
        cable.join(name, switch)
        for group, switch in zip(groups, switches, strict=True)
        for name in group
    ]
    links += [uplink.join(switch, upper) for switch in switches]
    return Network(topology, tuple(links), (*switches, upper))


def fat_tree(devices: Sequence[str], arity: int, cable: Cable) -> Network:
    """The three-level fat-tree of k-port switches (Al-Fares et al., SIGCOMM 2008).

    k pods of k/2 edge and k/2 aggregation switches, (k/2)^2 core switches, up to k^3/4 devices,
    which fill the edge switches in order; pods and edge switches without devices are left out.

    Raises:
        InputError: an odd arity, or more devices than fit.
    """
    half = arity // 2
    if arity < 2 or arity % 2:
        raise InputError(f"a fat-tree's arity is {arity}; it must be even and at least 2")
    if len(devices) > arity**3 // 4:
        raise InputError(
            f"a fat-tree of arity {arity} holds {arity**3 // 4} devices; there are {len(devices)}"
        )
    num_edges = math.ceil(len(devices) / half)
    num_pods = math.ceil(num_edges / half)
    edges = [f"edge{e}" for e in range(num_edges)]
    aggregations = [f"aggregation{a}" for a in range(num_pods * half)]
    cores = [f"core{c}" for c in range(half * half)]
    links = [cable.join(name, edges[i // half]) for i, name in enumerate(devices)]
    links += [
        cable.join(edge, aggregations[e // half * half + a])
        for e, edge in enumerate(edges)
        for a in range(half)
    ]
    links += [
        cable.join(aggregation, cores[a % half * half + c])
        for a, aggregation in enumerate(aggregations)
        for c in range(half)
    ]
    return Network("fat_tree", tuple(links), (*edges, *aggregations, *cores))
