"""Messages over the links of a cluster: when does each one arrive?

A flow waits for the latency of its route, then moves its bytes. While it does, it shares every link
of the route max-min fairly with the other flows on it; rates change whenever a flow starts or ends
to move bytes. The two directions of a half-duplex link share its bandwidth. A flow of no bytes
takes the latency alone, one from a device to itself no time at all. This is the fluid model of
network simulators without corrections for protocols: no slow start, no weights by round-trip time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from sim.network.flow_engine import Watcher, run_flows


class Flow(NamedTuple):
    """One message.

    Attributes:
        source, destination: devices, by index or by name.
        bytes: to move.
        start_s: when it is sent.
    """

    source: int | str
    destination: int | str
    bytes: float
    start_s: float = 0.0


FlowTuple = tuple[int | str, int | str, float] | tuple[int | str, int | str, float, float]


@dataclass(frozen=True)
class Flows:
    """Many messages, as arrays ``[num_flows]``.

    Attributes:
        source, destination: indices of devices, int.
        bytes: to move, float.
        start_s: when each is sent, float.
    """

    source: np.ndarray
    destination: np.ndarray
    bytes: np.ndarray
    start_s: np.ndarray

    @classmethod
    def from_matrix(cls, pair_bytes: np.ndarray, start_s: float = 0.0) -> "Flows":
        """One flow per nonzero entry of bytes from row to column device, row by row."""
        source, destination = np.nonzero(pair_bytes)
        return cls(
            source,
            destination,
            pair_bytes[source, destination].astype(float),
            np.full(len(source), float(start_s)),
        )


def simulate_flows(
    cluster: Cluster,
    flows: Flows | Sequence[Flow | FlowTuple],
    watch: Watcher | None = None,
) -> np.ndarray:
    """When each flow has arrived in full, float ``[num_flows]``, in seconds.

    Args:
        cluster: its links and routes.
        flows: messages in any order.
        watch: called for every interval between two events of flows that have to do with each
            other, with pairs as ``source * num_devices + destination``. Flows without a link in
            common are simulated one group after another, so intervals come group by group.

    Raises:
        InputError: a device that the cluster lacks, or bytes or a start that is negative or not
            finite.
    """
    checked = _checked(cluster, flows)
    num_devices = len(cluster.devices)
    finish_s = checked.start_s.copy()
    moving = np.flatnonzero(checked.source != checked.destination)
    if not moving.size:
        return finish_s
    pair_keys, pair = np.unique(
        checked.source[moving] * num_devices + checked.destination[moving], return_inverse=True
    )
    routes = cluster.routes(*np.divmod(pair_keys, num_devices))
    latency_s = np.add.reduceat(cluster.link_latency_s[routes.links], routes.offsets[:-1])
    finish_s[moving] += latency_s[pair]

    sized = checked.bytes[moving] > 0
    moving, pair = moving[sized], pair[sized]
    channels, capacity = _channels(cluster, routes.links)
    table = _padded(channels, routes.offsets, len(capacity) - 1)
    for members in _groups(table, pair, len(capacity)):
        flow = moving[members]
        if len(flow) == 1 and watch is None:
            finish_s[flow] += checked.bytes[flow] / capacity[table[:, pair[members]]].min()
            continue
        used, own_pair = np.unique(pair[members], return_inverse=True)
        own_links, own_table = np.unique(
            np.append(table[:, used].ravel(), len(capacity) - 1), return_inverse=True
        )
        finish_s[flow] = run_flows(
            own_table[:-1].reshape(len(table), len(used)),
            capacity[own_links],
            own_pair,
            checked.bytes[flow],
            finish_s[flow],
            watch and _with_keys(watch, pair_keys[used]),
        )
    return finish_s


def _with_keys(watch: Watcher, keys: np.ndarray) -> Watcher:
    def told(
        start_s: float, end_s: float, pair: np.ndarray, num_flows: np.ndarray, rate: np.ndarray
    ) -> None:
        watch(start_s, end_s, keys[pair], num_flows, rate)

    return told


def _checked(cluster: Cluster, flows: Flows | Sequence[Flow | FlowTuple]) -> Flows:
    if not isinstance(flows, Flows):
        flows = _as_arrays(cluster, [Flow(*flow) for flow in flows])
    flows = Flows(
        np.asarray(flows.source, dtype=np.int64),
        np.asarray(flows.destination, dtype=np.int64),
        np.asarray(flows.bytes, dtype=float),
        np.asarray(flows.start_s, dtype=float),
    )
    num_devices = len(cluster.devices)
    for name, values in (("source", flows.source), ("destination", flows.destination)):
        wrong = np.flatnonzero((values < 0) | (values >= num_devices))
        if wrong.size:
            raise InputError(
                f"flow {wrong[0]}: {name} is {values[wrong[0]]}; cluster {cluster.name!r} has "
                f"devices 0 to {num_devices - 1}"
            )
    for name, values in (("bytes", flows.bytes), ("start_s", flows.start_s)):
        wrong = np.flatnonzero(~((values >= 0) & np.isfinite(values)))
        if wrong.size:
            raise InputError(
                f"flow {wrong[0]}: {name} is {values[wrong[0]]}; it must be 0 or more and finite"
            )
    return flows


def _as_arrays(cluster: Cluster, flows: list[Flow]) -> Flows:
    def index(device: int | str) -> int:
        return cluster.device_index(device) if isinstance(device, str) else int(device)

    return Flows(
        np.array([index(f.source) for f in flows]),
        np.array([index(f.destination) for f in flows]),
        np.array([f.bytes for f in flows]),
        np.array([f.start_s for f in flows]),
    )


def _channels(cluster: Cluster, links: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Channels of directed links, numbered from 0, and their bandwidths, then an infinite one."""
    used, channel = np.unique(cluster.link_channel[links], return_inverse=True)
    return channel, np.append(cluster.link_bandwidth_bytes_per_s[used], np.inf)


def _padded(values: np.ndarray, offsets: np.ndarray, padding: int) -> np.ndarray:
    length = np.diff(offsets)
    table = np.full((int(length.max()), len(length)), padding)
    position = np.arange(len(values)) - np.repeat(offsets[:-1], length)
    table[position, np.repeat(np.arange(len(length)), length)] = values
    return table


def _groups(table: np.ndarray, pair: np.ndarray, num_links: int) -> list[np.ndarray]:
    """Flows in groups that share no link, as arrays of indices."""
    num_pairs = table.shape[1]
    hop, column = np.nonzero(table < num_links - 1)
    edges = (np.ones(len(hop)), (column, num_pairs + table[hop, column]))
    graph = csr_array(edges, shape=(num_pairs + num_links,) * 2)
    _, group = connected_components(graph, directed=False)
    by_flow = group[pair]
    order = np.argsort(by_flow, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(by_flow[order])) + 1) if len(order) else []
