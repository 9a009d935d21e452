"""A cluster: devices, the links between them, and the routes that messages take."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import networkx as nx
import numpy as np

from d2ft_sched.cluster.device import Device, check_node_name
from d2ft_sched.cluster.routes import Router, Routes, build_router
from d2ft_sched.errors import InputError

Duplex = Literal["full", "half"]


@dataclass(frozen=True)
class Link:
    """A cable between two nodes, usable both ways.

    Attributes:
        source, target: names of devices or switches.
        bandwidth_bytes_per_s: of each direction (full duplex), or of both together (half duplex).
        latency_s: time for a message to cross it.
        duplex: "full" or "half".
    """

    source: str
    target: str
    bandwidth_bytes_per_s: float
    latency_s: float
    duplex: Duplex = "full"

    def __post_init__(self) -> None:
        name = f"link {self.source!r} - {self.target!r}"
        if self.source == self.target:
            raise InputError(f"{name}: joins a node to itself; it must join two nodes")
        if not 0 < self.bandwidth_bytes_per_s < math.inf:
            raise InputError(
                f"{name}: bandwidth_bytes_per_s is {self.bandwidth_bytes_per_s}; it must be "
                f"above 0 and finite"
            )
        if not 0 <= self.latency_s < math.inf:
            raise InputError(
                f"{name}: latency_s is {self.latency_s}; it must be 0 or more and finite"
            )
        if self.duplex not in ("full", "half"):
            raise InputError(f"{name}: duplex is {self.duplex!r}; it must be 'full' or 'half'")


@dataclass(frozen=True)
class DirectedLink:
    """One direction of a `Link`: messages go from `source` to `target`."""

    source: str
    target: str
    bandwidth_bytes_per_s: float
    latency_s: float


@dataclass(frozen=True)
class Cluster:
    """Devices joined by links, directly or through switches.

    Link i of `links` is the directed links ``2 * i`` (source to target) and ``2 * i + 1`` (back).
    What limits traffic is a channel: each direction of a full-duplex link is one, both directions
    of a half-duplex link are one together.

    Attributes:
        name: of the cluster.
        devices: in the order of all arrays over devices.
        links: at most one between two nodes.
        switches: names of the nodes that are not devices.
        topology: what the network was described as, for people.
    """

    name: str
    devices: tuple[Device, ...]
    links: tuple[Link, ...] = ()
    switches: tuple[str, ...] = ()
    topology: str = "explicit"

    def __post_init__(self) -> None:
        if not self.devices:
            raise InputError(f"cluster {self.name!r}: has no devices; it needs at least 1")
        for name in self.switches:
            check_node_name("switch", name)
        seen: set[str] = set()
        for node in self.nodes:
            if node in seen:
                raise InputError(
                    f"cluster {self.name!r}: two nodes are called {node!r}; names of devices and "
                    f"switches must differ"
                )
            seen.add(node)
        joined: set[frozenset[str]] = set()
        for link in self.links:
            for end in (link.source, link.target):
                if end not in seen:
                    raise InputError(
                        f"cluster {self.name!r}: link {link.source!r} - {link.target!r} names "
                        f"{end!r}, which is no device or switch of it"
                    )
            if (ends := frozenset((link.source, link.target))) in joined:
                raise InputError(
                    f"cluster {self.name!r}: two links join {link.source!r} and {link.target!r}; "
                    f"write one with the bandwidth of both"
                )
            joined.add(ends)
        reached = nx.node_connected_component(self.graph, self.devices[0].name)
        for node in self.nodes:
            if node not in reached:
                raise InputError(
                    f"cluster {self.name!r}: {node!r} cannot be reached from "
                    f"{self.devices[0].name!r}; links must join all devices and switches"
                )

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of devices, then of switches."""
        return tuple(d.name for d in self.devices) + self.switches

    @cached_property
    def has_curves(self) -> bool:
        """Whether any device was measured: then sizes outside are warned of, each time anew."""
        return any(device.curves for device in self.devices)

    @cached_property
    def graph(self) -> nx.Graph:
        """Nodes with attribute ``device`` (None for a switch), edges with attribute ``link``."""
        graph: nx.Graph = nx.Graph(name=self.name)
        graph.add_nodes_from((d.name, {"device": d}) for d in self.devices)
        graph.add_nodes_from((name, {"device": None}) for name in self.switches)
        graph.add_edges_from((k.source, k.target, {"link": k}) for k in self.links)
        return graph

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.nodes)}

    def device_index(self, name: str) -> int:
        """Position of a device in `devices`.

        Raises:
            InputError: there is no such device.
        """
        index = self._index.get(name, len(self.devices))
        if index >= len(self.devices):
            names = ", ".join(d.name for d in self.devices)
            raise InputError(f"cluster {self.name!r} has no device {name!r}; it has {names}")
        return index

    @cached_property
    def links_directed(self) -> tuple[DirectedLink, ...]:
        """Both directions of every link."""
        return tuple(
            DirectedLink(source, target, k.bandwidth_bytes_per_s, k.latency_s)
            for k in self.links
            for source, target in ((k.source, k.target), (k.target, k.source))
        )

    @cached_property
    def link_bandwidth_bytes_per_s(self) -> np.ndarray:
        """Of every directed link, float ``[2 * num_links]``."""
        return np.repeat([float(k.bandwidth_bytes_per_s) for k in self.links], 2)

    @cached_property
    def link_latency_s(self) -> np.ndarray:
        """Of every directed link, float ``[2 * num_links]``."""
        return np.repeat([float(k.latency_s) for k in self.links], 2)

    @cached_property
    def link_channel(self) -> np.ndarray:
        """The directed link whose bandwidth each directed link uses, int ``[2 * num_links]``:
        itself, or for half duplex the first of the two."""
        half = np.repeat(np.array([k.duplex == "half" for k in self.links], dtype=bool), 2)
        own = np.arange(2 * len(self.links))
        return np.where(half, own // 2 * 2, own)

    @cached_property
    def _router(self) -> Router:
        ends = np.array(
            [(self._index[k.source], self._index[k.target]) for k in self.links], dtype=np.int64
        ).reshape(-1, 2)
        return build_router(
            len(self.nodes),
            len(self.devices),
            tail=ends.ravel(),
            head=ends[:, ::-1].ravel(),
            latency_s=self.link_latency_s,
        )

    def routes(self, source: np.ndarray, target: np.ndarray) -> Routes:
        """Routes between devices, in directed links; both arguments int ``[num_routes]``.

        Fewest hops, then least latency; equal routes are told apart as in `Router`.
        """
        return self._router.routes(np.asarray(source), np.asarray(target))

    def route(self, source: int, target: int) -> tuple[int, ...]:
        """Indices of the directed links from device `source` to device `target`, in order."""
        return tuple(self.routes(np.array([source]), np.array([target])).links.tolist())

    @cached_property
    def _path_matrices(self) -> tuple[np.ndarray, np.ndarray]:
        num_devices = len(self.devices)
        source, target = np.divmod(np.arange(num_devices**2), num_devices)
        bandwidth = np.full(num_devices**2, np.inf)
        latency = np.zeros(num_devices**2)
        for pair, link in self._router.walk(source, target):
            bandwidth[pair] = np.minimum(bandwidth[pair], self.link_bandwidth_bytes_per_s[link])
            latency[pair] += self.link_latency_s[link]
        shape = (num_devices, num_devices)
        return bandwidth.reshape(shape), latency.reshape(shape)

    def path_bandwidth_bytes_per_s(self) -> np.ndarray:
        """Bandwidth of the narrowest link of each route, float ``[num_devices, num_devices]``;
        infinite on the diagonal."""
        return self._path_matrices[0].copy()

    def path_latency_s(self) -> np.ndarray:
        """Sum of the latencies of each route, float ``[num_devices, num_devices]``; 0 on the
        diagonal."""
        return self._path_matrices[1].copy()

    def device_bandwidth_bytes_per_s(self) -> np.ndarray:
        """Bandwidth of each device's own links, float ``[num_devices]``; infinite without links.

        The sum over its links of what one direction has while both are in use: on a switch that of
        its access link, in a full mesh that of all its links together; half of it where a link is
        half duplex.
        """
        return self._device_bandwidth.copy()

    @cached_property
    def _device_bandwidth(self) -> np.ndarray:
        total = np.zeros(len(self.nodes))
        for link in self.links:
            share = link.bandwidth_bytes_per_s / (2 if link.duplex == "half" else 1)
            total[[self._index[link.source], self._index[link.target]]] += share
        return np.where(total > 0, total, np.inf)[: len(self.devices)]

    @cached_property
    def is_non_blocking_switch(self) -> bool:
        """Whether all devices hang on one switch by full-duplex links and nothing else."""
        return (
            len(self.switches) == 1
            and len(self.links) == len(self.devices)
            and all(self.switches[0] in (k.source, k.target) for k in self.links)
            and all(k.duplex == "full" for k in self.links)
        )
