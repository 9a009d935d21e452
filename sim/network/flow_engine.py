"""Event-driven simulation of flows that share links max-min fairly."""

import heapq
from typing import Protocol

import numpy as np

from sim.network.fair_share import Levels

_SIZE_TOLERANCE = 1e-10
_TIME_TOLERANCE = 1e-12
_FEW = 16


class Watcher(Protocol):
    """Is told of every interval in which rates do not change."""

    def __call__(
        self,
        start_s: float,
        end_s: float,
        pair: np.ndarray,
        num_flows: np.ndarray,
        rate: np.ndarray,
    ) -> None:
        """`pair` are the routes in use, each with `num_flows` flows at `rate` bytes/s."""


class _Classes:
    """Flows under way, those of one pair in one class, since they run at equal rates.

    Attributes:
        levels: routes, numbers of flows and rates of the classes, a column each.
        pair: of each column, int ``[max_classes]``.
        remaining: bytes until its smallest flow is done, float ``[max_classes]``.
        tolerance: bytes of that flow that may be left, float ``[max_classes]``.
        waiting: by pair, a heap of (bytes that a flow of the class that ran all along will have
            moved when this flow is done, index of the flow).
    """

    def __init__(self, routes: np.ndarray, capacity: np.ndarray, size_bytes: np.ndarray) -> None:
        num_pairs = routes.shape[1]
        self.levels = Levels(routes.shape[0], num_pairs, capacity)
        self.pair = np.zeros(num_pairs, dtype=np.int64)
        self.remaining = np.zeros(num_pairs)
        self.tolerance = np.zeros(num_pairs)
        self.waiting: list[list[tuple[float, int]]] = [[] for _ in range(num_pairs)]
        self._routes = routes
        self._size_bytes = size_bytes
        self._column = np.full(num_pairs, -1)

    @property
    def size(self) -> int:
        """Columns in use."""
        return self.levels.num_classes

    def add(self, flows: np.ndarray, pairs: np.ndarray) -> None:
        """Let flows begin, by index, with the pair of each."""
        fresh: dict[int, None] = {}
        grown = set()
        for flow, pair in zip(flows.tolist(), pairs.tolist(), strict=True):
            heap, column = self.waiting[pair], self._column[pair]
            moved = heap[0][0] - self.remaining[column] if column >= 0 else 0.0
            heapq.heappush(heap, (moved + self._size_bytes[flow], flow))
            if column >= 0:
                self._set_first(column, moved)
            elif len(heap) == 1:
                fresh[pair] = None
            if len(heap) > 1:
                grown.add(pair)
        if fresh:
            new = np.array(list(fresh))
            columns = np.arange(self.size, self.size + len(new))
            self.pair[columns] = new
            self._column[new] = columns
            for column in columns.tolist():
                self._set_first(column, 0.0)
            self.levels.append(
                self._routes[:, new], np.array([float(len(self.waiting[p])) for p in fresh])
            )
        for pair in grown:
            self.levels.count[self._column[pair]] = len(self.waiting[pair])

    def advance(self, rate: np.ndarray, step_s: float) -> list[int]:
        """Move bytes at `rate` for `step_s`; the flows that are done then are taken out."""
        remaining = self.remaining[: self.size]
        remaining -= rate * step_s
        done: list[int] = []
        emptied: list[int] = []
        for column in np.flatnonzero(remaining <= self.tolerance[: self.size]).tolist():
            heap = self.waiting[self.pair[column]]
            moved = heap[0][0]
            while heap and heap[0][0] - moved <= _SIZE_TOLERANCE * self._size_bytes[heap[0][1]]:
                done.append(heapq.heappop(heap)[1])
            if heap:
                self._set_first(column, moved)
                self.levels.count[column] = len(heap)
            else:
                emptied.append(column)
        self._take_out(emptied)
        return done

    def _set_first(self, column: int, moved: float) -> None:
        target, flow = self.waiting[self.pair[column]][0]
        self.remaining[column] = target - moved
        self.tolerance[column] = _SIZE_TOLERANCE * self._size_bytes[flow]

    def _take_out(self, columns: list[int]) -> None:
        self._column[self.pair[columns]] = -1
        if len(columns) > _FEW:
            kept = np.delete(np.arange(self.size), columns)
            for values in (self.pair, self.remaining, self.tolerance):
                values[: len(kept)] = values[kept]
            self.levels.keep(kept)
            self._column[self.pair[: len(kept)]] = np.arange(len(kept))
            return
        for column in reversed(columns):
            last = self.size - 1
            for values in (self.pair, self.remaining, self.tolerance):
                values[column] = values[last]
            self.levels.remove(column)
            if column != last:
                self._column[self.pair[column]] = column


def run_flows(
    routes: np.ndarray,
    capacity: np.ndarray,
    pair: np.ndarray,
    size_bytes: np.ndarray,
    start_s: np.ndarray,
    watch: Watcher | None = None,
) -> np.ndarray:
    """Times at which flows have moved their bytes, float ``[num_flows]``.

    Args:
        routes: links of each pair's route, int ``[max_hops, num_pairs]``, shorter ones padded with
            the last link.
        capacity: bytes/s of each link, float ``[num_links + 1]``; the last, which pads, infinite.
        pair: column of `routes` of each flow, int ``[num_flows]``.
        size_bytes: of each flow, above 0.
        start_s: when each flow begins to move bytes.
        watch: called for every interval between two events.
    """
    classes = _Classes(routes, capacity, size_bytes)
    finish_s = np.zeros(len(pair))
    arrival = np.argsort(start_s, kind="stable")
    arrival_s = np.append(start_s[arrival], np.inf)
    arrived = 0
    now = arrival_s[0]
    while arrived < len(pair) or classes.size:
        if classes.size:
            rate = classes.levels.rates()
            to_finish_s = (classes.remaining[: classes.size] / rate).min()
            to_arrival_s = arrival_s[arrived] - now
            step_s = min(to_finish_s, to_arrival_s)
            later = now + step_s if to_finish_s < to_arrival_s else arrival_s[arrived]
            if watch is not None:
                in_use = slice(0, classes.size)
                counts = classes.levels.count[in_use].copy()
                watch(now, later, classes.pair[in_use].copy(), counts, rate)
            finish_s[classes.advance(rate, step_s)] = later
            now = later
        else:
            now = arrival_s[arrived]
        if now >= arrival_s[arrived]:
            first = arrived
            arrived = int(np.searchsorted(arrival_s, now * (1 + _TIME_TOLERANCE), side="right"))
            flows = arrival[first:arrived]
            classes.add(flows, pair[flows])
    return finish_s
