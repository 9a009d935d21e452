"""Shortest routes through a network, for many pairs at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

_TABLE_CELLS = 1 << 24
_LATENCY_STEPS = 1 << 20


@dataclass(frozen=True)
class Routes:
    """The links of many routes, one after another.

    Attributes:
        offsets: int ``[num_routes + 1]``; route r is ``links[offsets[r]:offsets[r + 1]]``.
        links: indices of directed links in order of travel, int ``[offsets[-1]]``.
    """

    offsets: np.ndarray
    links: np.ndarray


@dataclass(frozen=True)
class Router:
    """For every destination, the links by which each node comes nearer to it.

    A route has the fewest hops and, among those, the least latency. Where several next links are
    equally good, the destination's index picks one: its digits in the mixed radix of the choices
    met on the way. On a fat-tree this is the D-mod-k routing of Zahavi et al. (CCPE 22(2), 2010):
    deterministic, and spread evenly over the upper switches.

    Attributes:
        num_nodes: nodes of the network; destinations are the nodes ``0 .. num_targets - 1``.
        head: node where each directed link ends, int ``[num_links]``.
        first: int ``[num_targets * num_nodes + 1]``; the links from node u towards target t are
            ``next_link[first[t * num_nodes + u]:first[t * num_nodes + u + 1]]``.
        next_link: indices of directed links.
    """

    num_nodes: int
    head: np.ndarray
    first: np.ndarray
    next_link: np.ndarray

    def walk(
        self, source: np.ndarray, target: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Follow all routes at once; per hop, the pairs on their way and the link each takes."""
        pair = np.flatnonzero(source != target)
        node, goal, digits = source[pair], target[pair], target[pair]
        while pair.size:
            cell = goal * self.num_nodes + node
            choices = self.first[cell + 1] - self.first[cell]
            link = self.next_link[self.first[cell] + digits % choices]
            yield pair, link
            node, digits = self.head[link], digits // choices
            moving = node != goal
            pair, node, goal, digits = pair[moving], node[moving], goal[moving], digits[moving]

    def routes(self, source: np.ndarray, target: np.ndarray) -> Routes:
        """Routes from each source to its target, both int ``[num_routes]`` below `num_targets`."""
        hops = list(self.walk(source, target))
        empty = np.zeros(0, dtype=np.int64)
        pair = np.concatenate([empty, *(pairs for pairs, _ in hops)])
        link = np.concatenate([empty, *(links for _, links in hops)])
        length = np.bincount(pair, minlength=len(source))
        offsets = np.concatenate([[0], np.cumsum(length)])
        return Routes(offsets, link[np.argsort(pair, kind="stable")])


def build_router(
    num_nodes: int, num_targets: int, tail: np.ndarray, head: np.ndarray, latency_s: np.ndarray
) -> Router:
    """Tables of next links towards the nodes ``0 .. num_targets - 1``.

    Args:
        num_nodes: nodes of a connected network.
        num_targets: how many of them, from the first on, are destinations.
        tail, head: nodes of each directed link, int ``[num_links]``; with every link its reverse.
        latency_s: of each directed link; used in steps of a millionth of the largest.
    """
    order = np.argsort(tail, kind="stable")
    tail_sorted, head_sorted = tail[order], head[order]
    largest = float(latency_s.max(initial=0.0)) or 1.0
    # Whole numbers, exact in float64: one hop outweighs any sum of latencies.
    hop = float(_LATENCY_STEPS * num_nodes)
    weight = hop + np.round(latency_s[order] / largest * (_LATENCY_STEPS - 1))
    network = csr_array((weight, (tail_sorted, head_sorted)), shape=(num_nodes, num_nodes))

    counts: list[np.ndarray] = []
    next_links: list[np.ndarray] = []
    chunk = max(1, _TABLE_CELLS // max(1, len(tail)))
    for start in range(0, num_targets, chunk):
        targets = np.arange(start, min(start + chunk, num_targets))
        distance = dijkstra(network, indices=targets)
        nearer = distance[:, tail_sorted] == distance[:, head_sorted] + weight
        row, link = np.nonzero(nearer)
        cell = row * num_nodes + tail_sorted[link]
        counts.append(np.bincount(cell, minlength=len(targets) * num_nodes))
        next_links.append(order[link])
    first = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return Router(num_nodes, head, first, np.concatenate(next_links))
