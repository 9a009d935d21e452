"""Which operations any schedule can choose: what cannot must not set a scale."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d2ft_sched.problem.problem import CAPACITY_TOLERANCE, Problem
from d2ft_sched.problem.shared import NOT_COUNTED, SharedLimit
from d2ft_sched.schedule.operations import NUM_OPERATIONS

MAX_ROUNDS = 8
"""An operation that falls out may push out others; after this many rounds the rest stays in."""


@dataclass(frozen=True, eq=False)
class Limit:
    """Each group of items spends at most what it is admitted, of one resource.

    Attributes:
        item: items of groups that could break the limit, int ``[num_limited]``.
        group: group of each of them.
        cost: float ``[num_limited, 3]``.
        admitted: capacity with its tolerance, float ``[num_groups]``.
    """

    item: np.ndarray
    group: np.ndarray
    cost: np.ndarray
    admitted: np.ndarray

    def smallest(self, allowed: np.ndarray) -> np.ndarray:
        """Least cost of each item among what is allowed; 0 where that is nothing."""
        least = _by_operation(np.minimum, np.where(allowed[self.item], self.cost, np.inf))
        return np.where(np.isfinite(least), least, 0.0)

    def left(self, smallest: np.ndarray) -> np.ndarray:
        """What each group has left above these costs of its items, float ``[num_groups]``."""
        spent = np.bincount(self.group, smallest, minlength=len(self.admitted))
        return self.admitted - spent

    def forbid(self, allowed: np.ndarray) -> None:
        """Mark operations that do not fit even beside the smallest others, in place."""
        smallest = self.smallest(allowed)
        left = np.maximum(self.left(smallest), 0.0)[self.group]
        broken = ~(self.cost - smallest[:, None] <= left[:, None])
        at = np.flatnonzero(_by_operation(np.logical_or, broken))
        allowed[self.item[at]] &= ~broken[at]


def limits(problem: Problem) -> Iterator[Limit]:
    """Every capacity and shared limit, with the groups that could break it."""
    knapsack = problem.knapsack.ravel()
    for r in range(problem.num_resources):
        yield _limit(problem.cost[r], knapsack, problem.capacity[:, r])
    for constraint in problem.shared:
        if isinstance(constraint, SharedLimit):
            cost = problem.cost[constraint.resource]
            yield _limit(cost, constraint.group.ravel(), constraint.capacity)


def _limit(cost: np.ndarray, group: np.ndarray, capacity: np.ndarray) -> Limit:
    cost = cost.reshape(-1, NUM_OPERATIONS)
    counted = np.flatnonzero(group != NOT_COUNTED)
    admitted = capacity * (1 + CAPACITY_TOLERANCE)
    most = _by_operation(np.maximum, cost)[counted]
    dearest = np.bincount(group[counted], most, minlength=len(capacity))
    item = counted[(dearest > admitted)[group[counted]]]
    if len(item) < len(cost):
        group, cost = group[item], cost[item]
    return Limit(item, group, cost, admitted)


def _by_operation(combine: np.ufunc, values: np.ndarray) -> np.ndarray:
    """``combine.reduce(values, axis=1)`` of ``[num_items, 3]``, quicker along so short an axis."""
    first, *others = values.T
    for other in others:
        first = combine(first, other)
    return np.asarray(first)


def possible_operations(problem: Problem) -> np.ndarray:
    """Whether each operation fits beside the least that all others spend, bool ``[num_items, 3]``.

    No feasible schedule has one that does not; an item without any makes the problem infeasible.
    """
    allowed = np.ones((problem.num_items, NUM_OPERATIONS), dtype=bool)
    everything = list(limits(problem))
    for _ in range(MAX_ROUNDS):
        before = np.count_nonzero(allowed)
        for limit in everything:
            limit.forbid(allowed)
        if np.count_nonzero(allowed) == before:
            break
    return allowed
