"""Knapsacks with unequal costs in the form the search works on: padded, shifted and scaled."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.solvers.single.knapsacks import Knapsacks, padded_size

INNER_MARGIN = 1e-10
"""Relative part of a scaled capacity kept back, so that rounding costs to a grid breaks nothing."""


@dataclass(frozen=True, eq=False)
class ScaledBatch:
    """Knapsacks of similar size, padded to `width` items, every limit scaled to 1.

    From each item's costs its smallest one is taken away, in every resource, and from the limit
    their sum; then costs are divided by the limit and rounded to a grid on which sums are exact.

    Attributes:
        member: index of each knapsack in the run that the batch was taken from.
        item: flattened problem index of each item, int ``[num_knapsacks, width]``; 0 as padding.
        present: whether it is an item or padding, bool of the same shape.
        cost: float ``[num_resources, num_operations, num_knapsacks, width]``; 0 in what does not
            bind.
        allowed: whether the operation fits at all, bool ``[num_operations, num_knapsacks, width]``.
        possible: False where a knapsack cannot hold even the smallest costs, bool
            ``[num_knapsacks]``.
    """

    member: np.ndarray
    item: np.ndarray
    present: np.ndarray
    cost: np.ndarray
    allowed: np.ndarray
    possible: np.ndarray

    @property
    def num_resources(self) -> int:
        return int(self.cost.shape[0])

    def __len__(self) -> int:
        return int(self.item.shape[0])

    def take(self, chosen: np.ndarray) -> "ScaledBatch":
        """The knapsacks at the indices `chosen`, in that order."""
        return ScaledBatch(
            self.member[chosen],
            self.item[chosen],
            self.present[chosen],
            self.cost[:, :, chosen],
            self.allowed[:, chosen],
            self.possible[chosen],
        )

    def values(self, value: np.ndarray) -> np.ndarray:
        """Value of each operation, float ``[num_operations, num_knapsacks, width]``, 0 in the
        padding.

        Args:
            value: float ``[num_items_of_problem, num_operations]``.
        """
        padded = np.moveaxis(value[self.item], 2, 0)
        return np.where(self.present, padded, 0.0)


def scaled_batches(knapsacks: Knapsacks) -> list[ScaledBatch]:
    """The knapsacks in batches of similar size; resources that bind in none are left out."""
    width = padded_size(knapsacks.size)
    return [_batch(knapsacks, np.flatnonzero(width == w), int(w)) for w in np.unique(width)]


def _batch(knapsacks: Knapsacks, members: np.ndarray, width: int) -> ScaledBatch:
    size, start = knapsacks.size[members], knapsacks.start[members]
    column = np.arange(width)
    present = column < size[:, None]
    position = start[:, None] + np.minimum(column, size[:, None] - 1)
    grid = 2.0 ** min(50, 36 + int(np.ceil(np.log2(width))))
    num_operations = knapsacks.cost.shape[2]
    allowed = np.zeros((num_operations, len(members), width), dtype=bool)
    allowed[:] = present
    allowed[0] |= ~present
    possible = np.ones(len(members), dtype=bool)
    scaled = []
    for r in range(len(knapsacks.cost)):
        admitted = knapsacks.admitted[members, r]
        binds = np.isfinite(admitted)
        if not binds.any():
            continue
        cost = np.moveaxis(knapsacks.cost[r][position], 2, 0) * present
        smallest = cost.min(axis=0)
        least = smallest.sum(axis=1)
        left = np.where(binds, admitted - least, np.inf)
        possible &= left >= 0
        limit = np.maximum(left, 0.0) * (1 - INNER_MARGIN)
        extra = cost - smallest
        allowed &= extra <= limit[:, None]
        unit = np.where((limit > 0) & binds, limit, np.inf)
        scaled.append(np.rint(extra / unit[:, None] * grid) / grid * allowed)
    possible &= np.all(allowed.any(axis=0), axis=1)
    shape = (len(scaled), num_operations, len(members), width)
    cost = np.stack(scaled) if scaled else np.zeros(shape)
    return ScaledBatch(
        members, np.where(present, knapsacks.item[position], 0), present, cost, allowed, possible
    )
