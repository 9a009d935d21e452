"""Items sorted by knapsack: the form in which the separable solvers see a problem."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d2ft_sched.problem.problem import Problem
from d2ft_sched.schedule.operations import NUM_OPERATIONS


@dataclass(frozen=True, eq=False)
class Knapsacks:
    """A run of non-empty knapsacks with their items side by side.

    Attributes:
        item: index of each item in the flattened problem, int ``[num_items]``.
        start: first item of each knapsack, int ``[num_knapsacks]``.
        size: number of its items, at least 1.
        cost: float ``[num_resources, num_items, num_operations]``.
        admitted: capacity with its tolerance, float ``[num_knapsacks, num_resources]``; ``inf``
            where even the dearest operations fit.
    """

    item: np.ndarray
    start: np.ndarray
    size: np.ndarray
    cost: np.ndarray
    admitted: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    @property
    def num_items(self) -> int:
        return len(self.item)

    def take_where(self, wanted: np.ndarray) -> "Knapsacks":
        """The knapsacks where `wanted`, bool ``[num_knapsacks]``."""
        if wanted.all():
            return self
        chosen = np.flatnonzero(wanted)
        size = self.size[chosen]
        start = np.cumsum(size) - size
        position = np.repeat(self.start[chosen] - start, size) + np.arange(size.sum())
        return Knapsacks(
            item=self.item[position],
            start=start,
            size=size,
            cost=self.cost[:, position],
            admitted=self.admitted[chosen],
        )


def knapsack_runs(problem: Problem, max_items: int) -> Iterator[Knapsacks]:
    """All non-empty knapsacks in runs of about `max_items` items, so that memory stays bounded."""
    knapsack = problem.knapsack.ravel()
    sorted_already = bool((knapsack[1:] >= knapsack[:-1]).all())
    order = np.argsort(knapsack, kind="stable") if not sorted_already else None
    size = np.bincount(knapsack, minlength=problem.num_knapsacks)
    present = np.flatnonzero(size)
    size = size[present]
    end = np.cumsum(size)
    cost = problem.cost.reshape(problem.num_resources, problem.num_items, NUM_OPERATIONS)
    first = 0
    while first < len(present):
        begin = int(end[first] - size[first])
        last = max(first + 1, int(np.searchsorted(end, begin + max_items, side="right")))
        stop = int(end[last - 1])
        item = np.arange(begin, stop) if order is None else order[begin:stop]
        run_cost = cost[:, begin:stop] if order is None else cost[:, item]
        run_size = size[first:last]
        start = end[first:last] - run_size - begin
        yield Knapsacks(
            item, start, run_size, run_cost, _binding(problem, present[first:last], start, run_cost)
        )
        first = last


def _binding(
    problem: Problem, present: np.ndarray, start: np.ndarray, cost: np.ndarray
) -> np.ndarray:
    """Admitted spending ``[num_knapsacks, num_resources]``, ``inf`` where it cannot be exceeded."""
    admitted = problem.admitted[present]
    for r in range(len(cost)):
        if np.isfinite(admitted[:, r]).any():
            dearest = np.add.reduceat(cost[r].max(axis=1), start)
            admitted[dearest <= admitted[:, r], r] = np.inf
    return admitted


def padded_size(size: np.ndarray) -> np.ndarray:
    """The size rounded up so that padding is at most a quarter, for batches of similar size."""
    step = 2 ** np.maximum(0, np.ceil(np.log2(size)).astype(np.int64) - 3)
    return -(-size // step) * step
