"""Max-min fair rates of flows that share links.

Every link has a level; a flow runs at the lowest level of the links on its route, its bottleneck.
The rates are max-min fair where no link carries more than its capacity and every flow crosses a
full link on which no flow is faster (Bertsekas and Gallager, Data Networks, 1992, section 6.5).

`Levels` keeps the levels while flows come and go. Given every flow's bottleneck, the levels solve a
linear system, triangular in the order of the levels; given the levels, the bottlenecks follow. It
alternates the two from the last solution until the condition above holds, which after one change
takes a step or two; where that does not settle it fills from zero. So no rates are unchecked.
"""

import numpy as np
from scipy.linalg.blas import dtrsv

_MAX_STEPS = 24
_LEVEL_TOLERANCE = 1e-10
_LOAD_TOLERANCE = 1e-9


def fill(routes: np.ndarray, count: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Level of every link by progressive filling; infinite where a link limits nobody.

    All links that are the first to fill up for all of their flows are frozen in the same round.

    Args:
        routes: links of each class of flows, int ``[max_hops, num_classes]``, shorter ones padded
            with the last link.
        count: flows of each class, float ``[num_classes]``, above 0.
        capacity: of each link, float ``[num_links + 1]``; the last, which pads, is infinite.
    """
    num_links = len(capacity)
    level = np.full(num_links, np.inf)
    left = capacity.copy()
    while routes.shape[1]:
        weight = np.broadcast_to(count, routes.shape).ravel()
        flows = np.bincount(routes.ravel(), weights=weight, minlength=num_links)
        share = np.full(num_links, np.inf)
        np.divide(left, flows, out=share, where=(flows > 0) & np.isfinite(left))
        share = np.maximum(share, 0.0)
        shares = share[routes]
        lowest = shares.min(axis=0)
        is_lowest = shares <= lowest * (1 + 1e-12)
        agreeing = np.bincount(
            routes.ravel(), weights=weight * is_lowest.ravel(), minlength=num_links
        )
        full = (agreeing == flows) & (flows > 0) & np.isfinite(share)
        level[full] = share[full]
        frozen = full[routes].any(axis=0)
        rate = lowest[frozen] * count[frozen]
        left -= np.bincount(
            routes[:, frozen].ravel(),
            weights=np.broadcast_to(rate, routes[:, frozen].shape).ravel(),
            minlength=num_links,
        )
        routes, count = routes[:, ~frozen], count[~frozen]
    return level


class Levels:
    """Levels of links over a changing set of classes of flows.

    The caller keeps the classes in columns ``0 .. num_classes - 1`` of `routes`, adds and removes
    them with `append` and `remove`, and changes `count` in place.

    Attributes:
        routes: int ``[max_hops, max_classes]``, padded with the last link.
        count: flows of each class, float ``[max_classes]``.
        num_classes: columns in use.
    """

    def __init__(self, max_hops: int, max_classes: int, capacity: np.ndarray) -> None:
        """`capacity` as in `fill`."""
        num_links = len(capacity)
        self.routes = np.zeros((max_hops, max_classes), dtype=np.int64)
        self.count = np.zeros(max_classes)
        self.num_classes = 0
        self._capacity = capacity
        # Links in the order of their levels, limiting ones first; columns of _ranks follow routes.
        self._order = np.arange(num_links)
        self._rank = np.arange(num_links)
        self._num_limiting = 0
        self._ordered_capacity = capacity
        self._ranks = np.zeros_like(self.routes)
        self._bottleneck = np.zeros(max_classes, dtype=np.int64)

    def append(self, routes: np.ndarray, count: np.ndarray) -> None:
        """Add classes with routes int ``[max_hops, num_added]`` and so many flows each."""
        old, new = self.num_classes, self.num_classes + routes.shape[1]
        self.num_classes = new
        self.routes[:, old:new] = routes
        self.count[old:new] = count
        if routes.shape[1] > max(8, old // 8):
            self._refill()
            return
        self._ranks[:, old:new] = ranks = self._rank[routes]
        self._bottleneck[old:new] = lowest = ranks.min(axis=0)
        if (lowest >= self._num_limiting).any():
            self._limit(routes[:, lowest >= self._num_limiting])

    def remove(self, column: int) -> None:
        """Take a class out; the last one moves into its column."""
        self.num_classes = last = self.num_classes - 1
        if column != last:
            for columns in (self.routes, self._ranks):
                columns[:, column] = columns[:, last]
            self.count[column] = self.count[last]
            self._bottleneck[column] = self._bottleneck[last]

    def keep(self, columns: np.ndarray) -> None:
        """Take all classes out but those of `columns`, which close up in that order."""
        new = self.num_classes = len(columns)
        for table in (self.routes, self._ranks):
            table[:, :new] = table[:, columns]
        self.count[:new] = self.count[columns]
        self._bottleneck[:new] = self._bottleneck[columns]

    def rates(self) -> np.ndarray:
        """Max-min fair rate of a flow of each class, float ``[num_classes]``."""
        for _ in range(_MAX_STEPS):
            rate, level, overloaded = self._solve()
            if rate is not None:
                return rate
            self._reorder(self._improved(level, overloaded))
        return self._refill()

    def _solve(self) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        """Rates, where the levels for these bottlenecks are right; levels and overloaded links."""
        size, limiting = self.num_classes, self._num_limiting
        num_links = len(self._capacity)
        ranks, bottleneck = self._ranks[:, :size], self._bottleneck[:size]
        count = self.count[:size]
        cell = ranks * limiting + bottleneck
        shared = np.bincount(
            cell.ravel(),
            weights=np.broadcast_to(count, cell.shape).ravel(),
            minlength=num_links * limiting,
        ).reshape(num_links, limiting)
        diagonal = shared[:limiting].diagonal()
        idle = np.flatnonzero(diagonal == 0)
        shared[idle, idle] = 1.0
        solved = dtrsv(shared[:limiting].T, self._ordered_capacity[:limiting], lower=0, trans=1)
        level = np.full(num_links, np.inf)
        level[:limiting] = solved
        level[idle] = np.inf
        solved[idle] = 0.0
        load = shared @ solved
        overloaded = np.flatnonzero(load > self._ordered_capacity * (1 + _LOAD_TOLERANCE))
        rate = level[ranks].min(axis=0)
        is_right = (
            not overloaded.size
            and rate.min() > 0
            and (level[bottleneck] <= rate * (1 + _LEVEL_TOLERANCE)).all()
        )
        return (rate if is_right else None), level, overloaded

    def _improved(self, level: np.ndarray, overloaded: np.ndarray) -> np.ndarray:
        """Levels to go on from, by link: at least the equal share; overloaded links limit, too."""
        size = self.num_classes
        ranks, count = self._ranks[:, :size], self.count[:size]
        flows = np.bincount(
            ranks.ravel(),
            weights=np.broadcast_to(count, ranks.shape).ravel(),
            minlength=len(level),
        )
        share = np.full(len(level), np.inf)
        np.divide(self._ordered_capacity, flows, out=share, where=flows > 0)
        level = np.maximum(level, share)
        rate = level[ranks].min(axis=0)
        improved = level.copy()
        for rank in overloaded:
            crossing = (ranks == rank).any(axis=0)
            improved[rank] = _level_of(
                self._ordered_capacity[rank], rate[crossing], count[crossing]
            )
        by_link = np.empty_like(improved)
        by_link[self._order] = improved
        return by_link

    def _limit(self, routes: np.ndarray) -> None:
        """Let a link limit each of some routes on which none does."""
        size = self.num_classes
        present = self.routes[:, :size]
        flows = np.bincount(
            present.ravel(),
            weights=np.broadcast_to(self.count[:size], present.shape).ravel(),
            minlength=len(self._capacity),
        )
        share = self._capacity / np.maximum(flows, 1.0)
        tightest = routes[share[routes].argmin(axis=0), np.arange(routes.shape[1])]
        level = np.full(len(self._capacity), np.inf)
        limiting = self._order[: self._num_limiting]
        level[limiting] = share[limiting]
        level[tightest] = share[tightest]
        self._reorder(level)

    def _refill(self) -> np.ndarray:
        routes = self.routes[:, : self.num_classes]
        level = fill(routes, self.count[: self.num_classes], self._capacity)
        self._reorder(level)
        return level[routes].min(axis=0)

    def _reorder(self, level: np.ndarray) -> None:
        size = self.num_classes
        self._order = np.argsort(level, kind="stable")
        self._rank[self._order] = np.arange(len(level))
        self._num_limiting = int(np.isfinite(level).sum())
        self._ordered_capacity = self._capacity[self._order]
        self._ranks[:, :size] = self._rank[self.routes[:, :size]]
        self._bottleneck[:size] = self._ranks[:, :size].min(axis=0)


def _level_of(capacity: float, rate: np.ndarray, count: np.ndarray) -> float:
    """The level at which a link is full if its flows run at most at `rate` each."""
    order = np.argsort(rate)
    rate, count = rate[order], count[order]
    slower = np.concatenate([[0.0], np.cumsum(rate * count)[:-1]])
    faster = np.cumsum(count[::-1])[::-1]
    level = (capacity - slower) / faster
    return float(level[np.argmax(level <= rate)])
