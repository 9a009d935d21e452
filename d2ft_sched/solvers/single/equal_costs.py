"""Exact optimum of knapsacks whose items all cost the same, for any number of resources.

Then spending depends only on the counts (num_full, num_forward_only). Where SHORTCUT is never
dearer than FORWARD_ONLY, a FORWARD_ONLY that gains less than nothing stands for SHORTCUT. In an
optimum with given counts, no FULL item has a smaller advantage of FULL over FORWARD_ONLY than a
FORWARD_ONLY item has, or the two would swap. So with the items sorted by that advantage there is a
split: FULL items are the best ones before it, FORWARD_ONLY items the best ones after it, and every
split gives a valid choice. For each num_full the constraints leave an interval of num_forward_only,
on which the sum is concave. With the sums of `split_sweep` that is O(n^2) per knapsack of n items,
O(n) memory, and all knapsacks advance together.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.solvers.single.knapsacks import Knapsacks, padded_size
from d2ft_sched.solvers.single.split_sweep import SortedGains, operations_at, sorted_gains, sweep

EQUAL_COSTS_TOLERANCE = 1e-12
"""Relative spread of costs that counts as equal (rounding); the largest is then used."""


@dataclass(frozen=True, eq=False)
class EqualCostBatch:
    """Knapsacks of similar size, padded to `width` items; independent of the values.

    Attributes:
        item: flattened problem index of each item, int ``[num_knapsacks, width]``; 0 as padding.
        size: items of each knapsack, int ``[num_knapsacks]``.
        most_forward: largest feasible num_forward_only for each num_full, int
            ``[width + 1, num_knapsacks]``; `width` + 1 where none is feasible.
        least_forward: the smallest one, of the same shape; None where it is 0 throughout.
    """

    item: np.ndarray
    size: np.ndarray
    most_forward: np.ndarray
    least_forward: np.ndarray | None

    @property
    def width(self) -> int:
        return int(self.item.shape[1])

    @property
    def present(self) -> np.ndarray:
        """Whether it is an item or padding, bool ``[num_knapsacks, width]``."""
        return np.arange(self.width) < self.size[:, None]

    def sorted_gains(self, value: np.ndarray) -> SortedGains:
        """Its items in the order of the split; `value` is that of the problem's items."""
        clamped = self.least_forward is None
        return sorted_gains(value[self.item], self.present, clamped=clamped)


def has_equal_costs(knapsacks: Knapsacks) -> np.ndarray:
    """Whether the items of each knapsack cost the same in what binds, bool ``[num_knapsacks]``."""
    equal = np.ones(len(knapsacks), dtype=bool)
    for r in range(len(knapsacks.cost)):
        binds = np.isfinite(knapsacks.admitted[:, r])
        if binds.any():
            largest = np.maximum.reduceat(knapsacks.cost[r], knapsacks.start)
            smallest = np.minimum.reduceat(knapsacks.cost[r], knapsacks.start)
            same = (largest - smallest <= EQUAL_COSTS_TOLERANCE * largest).all(axis=1)
            equal &= same | ~binds
    return equal


def equal_cost_batches(knapsacks: Knapsacks) -> list[EqualCostBatch]:
    """Knapsacks with equal costs, grouped by size; padding is at most a quarter of the items."""
    width = padded_size(knapsacks.size)
    batches = []
    for w in np.unique(width):
        members = np.flatnonzero(width == w)
        batches.append(_batch(knapsacks, members, int(w)))
    return batches


def _batch(knapsacks: Knapsacks, members: np.ndarray, width: int) -> EqualCostBatch:
    size, start = knapsacks.size[members], knapsacks.start[members]
    column = np.arange(width)
    position = start[:, None] + np.minimum(column, size[:, None] - 1)
    item = np.where(column < size[:, None], knapsacks.item[position], 0)
    num_full = np.arange(width + 1)[:, None]
    most = np.where(num_full <= size, size - num_full, -1)
    least = np.zeros_like(most)
    for r in range(len(knapsacks.cost)):
        admitted = knapsacks.admitted[members, r]
        if np.isfinite(admitted).any():
            cost = np.maximum.reduceat(knapsacks.cost[r], knapsacks.start)[members].T
            _tighten(most, least, size, num_full, cost, admitted)
    feasible = most >= least
    most = np.where(feasible, most, width + 1)
    downward = not (least * feasible).any()
    return EqualCostBatch(item, size, most, None if downward else least)


def _tighten(
    most: np.ndarray,
    least: np.ndarray,
    size: np.ndarray,
    num_full: np.ndarray,
    cost: np.ndarray,
    admitted: np.ndarray,
) -> None:
    """Narrow the interval of num_forward_only to what one resource admits, in place.

    The bound found by division is corrected by one with the spending itself, which, as a sum of
    nothing but non-negative terms, has no cancellation.
    """
    shortcut, forward, full = cost

    def fits(num_forward: np.ndarray) -> np.ndarray:
        rest = size - num_full - num_forward
        return rest * shortcut + num_forward * forward + num_full * full <= admitted

    slope = forward - shortcut
    left = admitted - size * shortcut - num_full * (full - shortcut)
    quotient = left / np.where(slope == 0, 1.0, slope)
    limit = np.clip(quotient, -1, size + 1.0)
    up = np.floor(limit).astype(np.int64)
    up += fits(up + 1)
    up -= ~fits(up)
    down = np.ceil(limit).astype(np.int64)
    down -= fits(down - 1)
    down += ~fits(down)
    np.minimum(most, np.where(slope > 0, up, most), out=most)
    np.maximum(least, np.where(slope < 0, down, least), out=least)
    most[(slope == 0) & ~fits(np.zeros_like(most))] = -1


def solve_equal_costs(batch: EqualCostBatch, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The optimum of every knapsack of the batch.

    Args:
        batch: from `equal_cost_batches`.
        value: float ``[num_items_of_problem, 3]``.

    Returns:
        Operations, int8 ``[num_knapsacks, width]`` (SHORTCUT in the padding), and whether the
        knapsack has a feasible choice, bool ``[num_knapsacks]``.
    """
    gains = batch.sorted_gains(value)
    best, num_forward, split = _frontier(batch, gains)
    num_full = best.argmax(axis=0)
    column = np.arange(len(num_full))
    operation = operations_at(
        gains, split[num_full, column], num_full, num_forward[num_full, column]
    )
    return operation, np.isfinite(best[num_full, column])


def near_best_equal_costs(batch: EqualCostBatch, value: np.ndarray, num_choices: int) -> np.ndarray:
    """The best choices with different num_full of every knapsack, best first.

    Returns:
        Operations, int8 ``[num_choices, num_knapsacks, width]``; where a knapsack has fewer
        feasible num_full, its best choice again.
    """
    gains = batch.sorted_gains(value)
    best, num_forward, split = _frontier(batch, gains)
    ranked = np.argsort(-best, axis=0)
    column = np.arange(len(batch.size))
    choices = []
    for rank in range(num_choices):
        num_full = ranked[min(rank, len(ranked) - 1)]
        num_full = np.where(np.isfinite(best[num_full, column]), num_full, ranked[0])
        choices.append(
            operations_at(gains, split[num_full, column], num_full, num_forward[num_full, column])
        )
    return np.stack(choices)


def _frontier(
    batch: EqualCostBatch, gains: SortedGains
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best value, num_forward_only and split per num_full, each ``[height, num_knapsacks]``.

    The value is -inf where no num_forward_only is feasible.
    """
    width, num_knapsacks = batch.width, len(batch.size)
    least = batch.least_forward
    column = np.arange(num_knapsacks)
    possible = (batch.most_forward <= width).any(axis=1)
    height = int(np.flatnonzero(possible)[-1]) + 1 if possible.any() else 1
    most = batch.most_forward[:height]
    best = np.full((height, num_knapsacks), -np.inf)
    best_split = np.zeros((height, num_knapsacks), dtype=np.int32)
    best_forward = most.copy()
    flat = most * num_knapsacks + column
    helpful = np.count_nonzero(gains.forward > 0, axis=1)
    for split, (before, after) in enumerate(sweep(gains, height)):
        if least is not None:
            count = np.where(most > width, most, np.clip(helpful, least[:height], most))
            flat = count * num_knapsacks + column
        candidate = before + after.ravel()[flat]
        better = candidate > best
        np.copyto(best, candidate, where=better)
        np.copyto(best_split, split, where=better)
        if least is not None:
            np.copyto(best_forward, count, where=better)
            if split < width:
                helpful -= gains.forward[:, split] > 0
    return best, best_forward, best_split
