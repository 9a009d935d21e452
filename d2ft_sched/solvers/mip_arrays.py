"""A scheduling problem as one mixed-integer programme in sparse arrays.

Two binary variables per item, for FORWARD_ONLY and FULL; SHORTCUT is both at 0.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.operations import NUM_OPERATIONS, Operation
from d2ft_sched.problem import CAPACITY_TOLERANCE, Problem
from d2ft_sched.shared import NOT_COUNTED, Coverage

ACTIVE = np.array([Operation.FORWARD_ONLY, Operation.FULL])
MAX_INTEGER_COEFFICIENT = 10_000


@dataclass(frozen=True, eq=False)
class MipArrays:
    """maximise ``offset + objective @ x`` with ``matrix @ x <= upper``, x binary.

    Variable ``2 * item + j`` is operation ``ACTIVE[j]`` of the flattened item. The matrix is in
    coordinate form, sorted by row.
    """

    objective: np.ndarray
    offset: float
    row: np.ndarray
    column: np.ndarray
    coefficient: np.ndarray
    upper: np.ndarray

    @property
    def num_variables(self) -> int:
        return len(self.objective)

    @property
    def num_rows(self) -> int:
        return len(self.upper)

    def schedule(self, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Operations, int8 of the given shape, from the values of the variables."""
        chosen = np.round(x).reshape(-1, len(ACTIVE)) @ ACTIVE
        return np.clip(chosen, 0, Operation.FULL).astype(np.int8).reshape(shape)

    def variables(self, schedule: np.ndarray) -> np.ndarray:
        """Inverse of `schedule`."""
        return (schedule.reshape(-1, 1) == ACTIVE).astype(float).ravel()


def mip_arrays(problem: Problem) -> MipArrays:
    """The programme of a problem; constraints that nothing can break are left out."""
    value = problem.value.reshape(-1, NUM_OPERATIONS)
    num_items = problem.num_items
    rows = _Rows()
    one_operation = np.repeat(np.arange(num_items), len(ACTIVE))
    rows.add(one_operation, np.arange(2 * num_items), np.ones(2 * num_items), np.ones(num_items))
    knapsack = problem.knapsack.ravel()
    for r in range(problem.num_resources):
        rows.add_limits(problem.cost[r], knapsack, problem.capacity[:, r])
    for constraint in problem.shared:
        if isinstance(constraint, Coverage):
            rows.add_coverage(constraint, problem.num_microbatches)
        else:
            rows.add_limits(
                problem.cost[constraint.resource], constraint.group.ravel(), constraint.capacity
            )
    row, column, coefficient, upper = rows.joined()
    base = value[:, Operation.SHORTCUT]
    return MipArrays(
        objective=(value[:, ACTIVE] - base[:, None]).ravel(),
        offset=float(base.sum()),
        row=row,
        column=column,
        coefficient=coefficient,
        upper=upper,
    )


class _Rows:
    """Collects rows family by family."""

    def __init__(self) -> None:
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.upper: list[np.ndarray] = []
        self.num_rows = 0

    def add(
        self, row: np.ndarray, column: np.ndarray, coefficient: np.ndarray, upper: np.ndarray
    ) -> None:
        self.parts.append((row + self.num_rows, column, coefficient))
        self.upper.append(upper)
        self.num_rows += len(upper)

    def add_limits(self, cost: np.ndarray, group: np.ndarray, capacity: np.ndarray) -> None:
        """One row per group: its items' cost stays within its capacity."""
        cost = cost.reshape(-1, NUM_OPERATIONS)
        counted = group != NOT_COUNTED
        num_groups = len(capacity)
        dearest = np.bincount(group[counted], cost[counted].max(axis=1), minlength=num_groups)
        admitted = capacity * (1 + CAPACITY_TOLERANCE)
        binds = dearest > admitted
        item = np.flatnonzero(counted)[binds[group[counted]]]
        used = np.bincount(group[item], cost[item, Operation.SHORTCUT], minlength=num_groups)
        left = np.where(binds, admitted - used, 0.0)
        extra = (cost[item][:, ACTIVE] - cost[item, Operation.SHORTCUT][:, None]).ravel()
        column = (len(ACTIVE) * item[:, None] + np.arange(len(ACTIVE))).ravel()
        row = np.repeat(group[item], len(ACTIVE))
        nonzero = extra != 0
        row, column, extra = row[nonzero], column[nonzero], extra[nonzero]
        unit, whole = _units(row, extra, left, num_groups)
        coefficient = extra / unit[row]
        coefficient = np.where(whole[row], np.rint(coefficient), coefficient)
        upper = np.where(whole, np.floor(left / unit), left / unit)
        number = np.cumsum(binds) - 1
        self.add(number[row], column, coefficient, upper[binds])

    def add_coverage(self, coverage: Coverage, num_microbatches: int) -> None:
        """One row per group and micro-batch: at least `minimum` active subnets."""
        subnet = np.flatnonzero(coverage.group != NOT_COUNTED)
        if not len(subnet):
            return
        groups, number = np.unique(coverage.group[subnet], return_inverse=True)
        microbatch = np.arange(num_microbatches)
        item = subnet[:, None] * num_microbatches + microbatch
        row = (number[:, None] * num_microbatches + microbatch).ravel()
        column = (len(ACTIVE) * item.reshape(-1, 1) + np.arange(len(ACTIVE))).ravel()
        self.add(
            np.repeat(row, len(ACTIVE)),
            column,
            -np.ones(len(column)),
            np.full(len(groups) * num_microbatches, -float(coverage.minimum)),
        )

    def joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        row, column, coefficient = (np.concatenate(p) for p in zip(*self.parts, strict=True))
        order = np.lexsort((column, row))
        return row[order], column[order], coefficient[order], np.concatenate(self.upper)


def _units(
    row: np.ndarray, extra: np.ndarray, left: np.ndarray, num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """The unit that each row is divided by, and whether its coefficients are whole then.

    Costs that are small multiples of the smallest one give integer knapsacks, which the solvers
    know best; other rows are scaled to their capacity.
    """
    smallest = np.full(num_rows, np.inf)
    np.minimum.at(smallest, row, np.abs(extra))
    smallest = np.where(np.isfinite(smallest), smallest, 1.0)
    ratio = np.abs(extra) / smallest[row]
    broken = (ratio > MAX_INTEGER_COEFFICIENT) | (np.abs(ratio - np.rint(ratio)) > 1e-12 * ratio)
    whole = np.bincount(row[broken], minlength=num_rows) == 0
    largest = np.zeros(num_rows)
    np.maximum.at(largest, row, np.abs(extra))
    scale = np.maximum(np.abs(left), largest)
    return np.where(whole, smallest, np.where(scale > 0, scale, 1.0)), whole
