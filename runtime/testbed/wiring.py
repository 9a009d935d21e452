"""How the nodes of a cluster are wired as hosts: interfaces, addresses and static routes."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.errors import InputError

_HOSTS_PER_BLOCK = 254


@dataclass(frozen=True)
class Cable:
    """One link as a pair of virtual interfaces, one at each of its two nodes."""

    link: Link
    source_interface: str
    target_interface: str


@dataclass(frozen=True)
class Route:
    """At `node`, packets for `target` leave through `interface` to the neighbour `via`."""

    node: str
    target: str
    interface: str
    via: str


@dataclass(frozen=True)
class Wiring:
    """All that has to be set up in the namespaces of a cluster's nodes.

    Attributes:
        address: IPv4 address of each node, on all of its interfaces.
        cables: one for each link.
        routes: from every node that messages pass to every device, and between neighbours.
    """

    address: dict[str, str]
    cables: tuple[Cable, ...]
    routes: tuple[Route, ...]

    def interface(self, node: str) -> str:
        """The first interface of a node; the loopback if it has none."""
        for cable in self.cables:
            if cable.link.source == node:
                return cable.source_interface
            if cable.link.target == node:
                return cable.target_interface
        return "lo"


def wire(cluster: Cluster) -> Wiring:
    """Every node of the cluster as a host that forwards packets along the cluster's routes.

    Raises:
        InputError: a link is half duplex, or the way to a device depends on where a message comes
            from, which static routes cannot say.
    """
    for link in cluster.links:
        if link.duplex == "half":
            raise InputError(
                f"cluster {cluster.name!r}: link {link.source!r} - {link.target!r} is half duplex; "
                f"the testbed takes any topology of full-duplex links"
            )
    address = {
        node: f"10.213.{i // _HOSTS_PER_BLOCK}.{i % _HOSTS_PER_BLOCK + 1}"
        for i, node in enumerate(cluster.nodes)
    }
    num_interfaces = dict.fromkeys(cluster.nodes, 0)
    cables = []
    for link in cluster.links:
        names = []
        for node in (link.source, link.target):
            names.append(f"eth{num_interfaces[node]}")
            num_interfaces[node] += 1
        cables.append(Cable(link, *names))
    return Wiring(address, tuple(cables), _routes(cluster, cables))


def _routes(cluster: Cluster, cables: list[Cable]) -> tuple[Route, ...]:
    directed = [
        end
        for cable in cables
        for end in (
            (cable.link.source, cable.source_interface, cable.link.target),
            (cable.link.target, cable.target_interface, cable.link.source),
        )
    ]
    routes = {(node, via): Route(node, via, interface, via) for node, interface, via in directed}
    num_devices = len(cluster.devices)
    source, target = np.divmod(np.arange(num_devices**2), num_devices)
    ways = cluster.routes(source, target)
    for i, goal in enumerate(target):
        name = cluster.devices[goal].name
        for link in ways.links[ways.offsets[i] : ways.offsets[i + 1]]:
            node, interface, via = directed[link]
            route = Route(node, name, interface, via)
            if routes.setdefault((node, name), route) != route:
                raise InputError(
                    f"cluster {cluster.name!r}: messages to {name!r} leave {node!r} by different "
                    f"links depending on where they come from; the testbed takes topologies in "
                    f"which they do not, such as star, full_mesh, tree or islands"
                )
    return tuple(routes.values())
