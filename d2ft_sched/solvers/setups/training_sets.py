"""Training sets by what they are worth at the dual's prices, the best first."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d2ft_sched.problem.setups import SetupProblem
from d2ft_sched.solvers.setups.setup_dual import Dual
from d2ft_sched.solvers.setups.setup_rows import NUM_CHOICES, SetupRows


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Groups that train together.

    Attributes:
        trains: bool ``[num_groups]``.
        fits: whether its setups keep every capacity.
        bound: no schedule of it is worth more.
        bound_of_rest: nor of any set that has not come yet, this one included.
    """

    trains: np.ndarray
    fits: bool
    bound: float
    bound_of_rest: float


def sets_by_worth(problem: SetupProblem, rows: SetupRows, dual: Dual) -> Iterator[TrainingSet]:
    """All training sets by falling dual bound.

    From the best set at the prices, groups are changed in the order of the sum of what they lose.
    What the setup rows' prices pay for capacity that a set leaves unused is taken off its own
    bound: without them, the same prices bound the problem of the set alone.
    """
    best = dual.advantage > 0
    loss = np.abs(dual.advantage)
    open_groups = np.flatnonzero(np.isfinite(loss))
    order = open_groups[np.argsort(loss[open_groups], kind="stable")]
    loss = loss[order]
    setup = rows.matrix[rows.is_setup][:, NUM_CHOICES * problem.problem.num_items :].toarray()
    limit, price = rows.limit[rows.is_setup], dual.price[rows.is_setup]
    heap: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    while heap:
        lost, changed = heapq.heappop(heap)
        trains = best.copy()
        trains[order[list(changed)]] ^= True
        unused = np.maximum(limit - setup @ trains, 0.0)
        bound = dual.bound - lost
        yield TrainingSet(trains, problem.fits(trains), bound - float(price @ unused), bound)
        last = changed[-1] if changed else -1
        if last + 1 < len(order):
            following = lost + float(loss[last + 1])
            heapq.heappush(heap, (following, (*changed, last + 1)))
            if changed:
                moved = following - float(loss[last])
                heapq.heappush(heap, (max(moved, lost), (*changed[:-1], last + 1)))


def greedy_set(problem: SetupProblem, dual: Dual) -> np.ndarray:
    """The groups of most advantage at the prices that fit, one after another, bool
    ``[num_groups]``."""
    trains = np.zeros(problem.num_groups, dtype=bool)
    for group in np.argsort(-dual.advantage, kind="stable"):
        if np.isneginf(dual.advantage[group]):
            break
        trains[group] = True
        trains[group] = problem.fits(trains)
    return trains
