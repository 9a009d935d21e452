"""Shared constraints as rows over items, and what each knapsack contributes to each row."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.problem.problem import CAPACITY_TOLERANCE, Problem
from d2ft_sched.problem.shared import NOT_COUNTED, Coverage, SharedLimit
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation
from d2ft_sched.solvers.single.value_grid import DIVISORS, MAX_STEPS


@dataclass(frozen=True, eq=False)
class SharedRows:
    """sum over items of weight[item, operation] <= limit[row], for the rows that can be broken.

    An item is in at most one row per family (per `SharedLimit` or `Coverage`). Rows are scaled so
    that usage and limit are about 1. Where a row's weights are multiples of a unit, as bytes of
    equal messages are, its limit is lowered to the next multiple: no schedule is lost, but the
    prices no longer count on a rest that nothing can use.

    Attributes:
        row: row of each item, one int array ``[num_items]`` per family; -1 where in none.
        weight: float ``[num_items, 3]`` per family; 0 where in none. Those of a coverage are
            negative.
        limit: float ``[num_rows]``.
        pair: index of each item's (knapsack, row) pair, int ``[num_items]`` per family; -1 where in
            none.
        pair_knapsack: int ``[num_pairs]``, rising.
        pair_row: int ``[num_pairs]``.
        allowed: whether the operation fits beside the smallest weights of all other items, bool
            ``[num_items, 3]``.
        impossible: whether a row cannot hold even with the smallest weights of all its items.
    """

    row: tuple[np.ndarray, ...]
    weight: tuple[np.ndarray, ...]
    limit: np.ndarray
    pair: tuple[np.ndarray, ...]
    pair_knapsack: np.ndarray
    pair_row: np.ndarray
    allowed: np.ndarray
    impossible: bool

    @property
    def num_rows(self) -> int:
        return len(self.limit)

    def charge(self, price: np.ndarray) -> np.ndarray:
        """What each operation pays at the rows' prices, float ``[num_items, 3]``."""
        total = np.zeros((len(self.row[0]), NUM_OPERATIONS)) if self.row else np.zeros(())
        with_none = np.append(price, 0.0)
        for row, weight in zip(self.row, self.weight, strict=True):
            total += with_none[row][:, None] * weight
        return total

    def pair_usage(self, operation: np.ndarray) -> np.ndarray:
        """What each knapsack uses of each of its rows, float ``[num_pairs]``.

        Args:
            operation: of each item, int ``[num_items]``.
        """
        usage = np.zeros(len(self.pair_row))
        for pair, weight in zip(self.pair, self.weight, strict=True):
            counted = pair >= 0
            chosen = weight[counted, operation[counted]]
            usage += np.bincount(pair[counted], chosen, minlength=len(usage))
        return usage

    def row_usage(self, pair_usage: np.ndarray) -> np.ndarray:
        """Sum over the knapsacks, float ``[num_rows]``."""
        return np.bincount(self.pair_row, pair_usage, minlength=self.num_rows)


def shared_rows(problem: Problem) -> SharedRows:
    """The rows of a problem's shared constraints."""
    families = []
    limits: list[np.ndarray] = []
    impossible = False
    allowed = np.ones((problem.num_items, NUM_OPERATIONS), dtype=bool)
    for constraint in problem.shared:
        row, weight, limit = _family(problem, constraint)
        counted = row != NOT_COUNTED
        smallest = np.bincount(row[counted], weight[counted].min(axis=1), minlength=len(limit))
        largest = np.bincount(row[counted], weight[counted].max(axis=1), minlength=len(limit))
        present = np.bincount(row[counted], minlength=len(limit)) > 0
        impossible |= bool((present & (smallest > limit + 1e-12 * np.abs(limit))).any())
        left = np.append(np.maximum(limit - smallest, 0.0), np.inf)[row]
        allowed &= weight - weight.min(axis=1, keepdims=True) <= left[:, None]
        binds = present & (largest > limit)
        limit = np.where(binds, reachable_limits(row, weight, smallest, limit), limit)
        scale = np.where(limit > 0, limit, np.maximum(np.abs(limit), largest))[binds]
        scale = np.where(scale > 0, scale, 1.0)
        number = np.where(binds, np.cumsum(binds) - 1, NOT_COUNTED)
        row = np.append(number, NOT_COUNTED)[row]
        divisor = np.append(scale, np.inf)[row]
        offset = sum(map(len, limits))
        families.append((np.where(row >= 0, row + offset, NOT_COUNTED), weight / divisor[:, None]))
        limits.append(limit[binds] / scale)
    knapsack = problem.knapsack.ravel()
    num_rows = sum(map(len, limits))
    keys = [
        np.where(row >= 0, knapsack * max(num_rows, 1) + row, NOT_COUNTED) for row, _ in families
    ]
    pairs = np.unique(np.concatenate([k[k >= 0] for k in keys])) if keys else np.zeros(0, int)
    return SharedRows(
        row=tuple(row for row, _ in families),
        weight=tuple(weight for _, weight in families),
        limit=np.concatenate(limits) if limits else np.zeros(0),
        pair=tuple(np.where(k >= 0, np.searchsorted(pairs, k), NOT_COUNTED) for k in keys),
        pair_knapsack=pairs // max(num_rows, 1),
        pair_row=pairs % max(num_rows, 1),
        allowed=allowed,
        impossible=impossible,
    )


def _family(
    problem: Problem, constraint: SharedLimit | Coverage
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and weight of every item, and the limit of every row."""
    if isinstance(constraint, SharedLimit):
        weight = problem.cost[constraint.resource].reshape(-1, NUM_OPERATIONS)
        return constraint.group.ravel(), weight, constraint.capacity * (1 + CAPACITY_TOLERANCE)
    group, microbatch = constraint.group[:, None], np.arange(problem.num_microbatches)
    num_groups = int(constraint.group.max(initial=NOT_COUNTED)) + 1
    row = np.where(group >= 0, group * problem.num_microbatches + microbatch, NOT_COUNTED).ravel()
    active = np.zeros(NUM_OPERATIONS)
    active[[Operation.FORWARD_ONLY, Operation.FULL]] = -1.0
    weight = np.broadcast_to(active, (len(row), NUM_OPERATIONS))
    limit = np.full(num_groups * problem.num_microbatches, -float(constraint.minimum))
    return row, weight, limit


def reachable_limits(
    row: np.ndarray, weight: np.ndarray, smallest: np.ndarray, limit: np.ndarray
) -> np.ndarray:
    """The limits, lowered to the largest usage that weights on a grid can reach.

    Args:
        row: of each item, int ``[num_items]``; -1 where in none.
        weight: of its operations, float ``[num_items, num_operations]``.
        smallest: usage of each row by the smallest weights, float ``[num_rows]``.
        limit: float ``[num_rows]``.
    """
    num_rows = len(limit)
    extra = weight - weight.min(axis=1, keepdims=True)
    item, operation = np.nonzero((extra > 0) & (row != NOT_COUNTED)[:, None])
    amount, where = extra[item, operation], row[item]
    least = np.full(num_rows, np.inf)
    np.minimum.at(least, where, amount)
    total = np.bincount(where, amount, minlength=num_rows)
    undecided = np.isfinite(least) & (total < MAX_STEPS * least)
    lowered = limit.copy()
    for divisor in DIVISORS:
        unit = np.where(undecided, least / divisor, np.inf)
        ratio = amount / unit[where]
        broken = np.abs(ratio - np.rint(ratio)) > 1e-9 * ratio
        exact = undecided & (np.bincount(where[broken], minlength=num_rows) == 0)
        steps = np.floor((limit[exact] - smallest[exact]) / unit[exact] * (1 + 1e-9) + 1e-9)
        lowered[exact] = np.minimum(
            limit[exact], smallest[exact] + steps * unit[exact] * (1 + 1e-9)
        )
        undecided &= ~exact
    return lowered
