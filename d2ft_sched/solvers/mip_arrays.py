"""A scheduling problem as one mixed-integer programme in sparse arrays.

Two binary variables per item, for FORWARD_ONLY and FULL; SHORTCUT is both at 0.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.shared import NOT_COUNTED, Coverage
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation
from d2ft_sched.solvers.possible import Limit, limits, possible_operations

ACTIVE = np.array([Operation.FORWARD_ONLY, Operation.FULL])
MAX_INTEGER_COEFFICIENT = 10_000


@dataclass(frozen=True, eq=False)
class MipArrays:
    """maximise ``offset + scale * objective @ x`` with ``matrix @ x <= upper``, x binary.

    The objective's largest coefficient is 1; x is 0 where not `possible`, and coefficients too.

    Variable ``2 * item + j`` is operation ``ACTIVE[j]`` of the flattened item. The matrix is in
    coordinate form, sorted by row. Rows that are `whole` have integer coefficients; those of others
    are at most 1.
    """

    objective: np.ndarray
    scale: float
    offset: float
    possible: np.ndarray
    row: np.ndarray
    column: np.ndarray
    coefficient: np.ndarray
    upper: np.ndarray
    whole: np.ndarray

    @property
    def num_variables(self) -> int:
        return len(self.objective)

    @property
    def num_rows(self) -> int:
        return len(self.upper)

    @property
    def largest(self) -> float:
        """Value of the best operation of every item: a bound that takes no solver."""
        gain = self.objective.reshape(-1, len(ACTIVE)).max(axis=1)
        return self.offset + self.scale * float(np.maximum(gain, 0.0).sum())

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
    allowed = possible_operations(problem)
    column = np.arange(len(ACTIVE) * num_items)
    needed = np.flatnonzero(~allowed[:, Operation.SHORTCUT])
    rows = ProgrammeRows()
    rows.add(column // len(ACTIVE), column, np.ones(len(column)), np.ones(num_items))
    rows.add(
        np.repeat(np.arange(len(needed)), len(ACTIVE)),
        (len(ACTIVE) * needed[:, None] + np.arange(len(ACTIVE))).ravel(),
        -np.ones(len(ACTIVE) * len(needed)),
        -np.ones(len(needed)),
    )
    for limit in limits(problem):
        rows.add_limit(limit, allowed)
    for constraint in problem.shared:
        if isinstance(constraint, Coverage):
            rows.add_coverage(constraint, problem.num_microbatches)
    row, column, coefficient = rows.joined()
    base = value[:, Operation.SHORTCUT]
    base = np.where(allowed[:, Operation.SHORTCUT], base, _least(value, allowed))
    gain = np.where(allowed[:, ACTIVE], value[:, ACTIVE] - base[:, None], 0.0).ravel()
    scale = float(np.abs(gain).max()) or 1.0
    return MipArrays(
        objective=gain / scale,
        scale=scale,
        offset=float(base.sum()),
        possible=allowed[:, ACTIVE].ravel(),
        row=row,
        column=column,
        coefficient=coefficient,
        upper=np.concatenate(rows.upper),
        whole=np.concatenate(rows.whole),
    )


def _least(value: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Smallest value of each item among what is allowed; 0 where that is nothing."""
    least = np.where(allowed, value, np.inf).min(axis=1)
    return np.where(np.isfinite(least), least, 0.0)


class ProgrammeRows:
    """Collects rows family by family."""

    def __init__(self) -> None:
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.upper: list[np.ndarray] = []
        self.whole: list[np.ndarray] = []
        self.num_rows = 0

    def add(
        self,
        row: np.ndarray,
        column: np.ndarray,
        coefficient: np.ndarray,
        upper: np.ndarray,
        whole: np.ndarray | None = None,
    ) -> None:
        """Add rows; without `whole` all of their coefficients are integers."""
        self.parts.append((row + self.num_rows, column, coefficient))
        self.upper.append(upper)
        self.whole.append(np.ones(len(upper), dtype=bool) if whole is None else whole)
        self.num_rows += len(upper)

    def add_limit(self, limit: Limit, allowed: np.ndarray) -> None:
        """One row per group: its items' cost stays within what is left."""
        groups, row = np.unique(limit.group, return_inverse=True)
        smallest = limit.smallest(allowed)
        cost = limit.cost - smallest[:, None]
        may_skip = allowed[limit.item, Operation.SHORTCUT]
        base = np.where(may_skip, cost[:, Operation.SHORTCUT], 0.0)
        left = limit.left(smallest)[groups] - np.bincount(row, base, minlength=len(groups))
        extra = (cost[:, ACTIVE] - base[:, None]).ravel()
        column = (len(ACTIVE) * limit.item[:, None] + np.arange(len(ACTIVE))).ravel()
        row = np.repeat(row, len(ACTIVE))
        used = (extra != 0) & allowed[limit.item][:, ACTIVE].ravel()
        row, column, extra = row[used], column[used], extra[used]
        self.add_scaled(row, column, extra, left)

    def add_scaled(
        self, row: np.ndarray, column: np.ndarray, extra: np.ndarray, left: np.ndarray
    ) -> None:
        """Rows of any scale: ``sum of extra * x <= left``."""
        unit, whole = _units(row, extra, left)
        coefficient = extra / unit[row]
        coefficient = np.where(whole[row], np.rint(coefficient), coefficient)
        least = np.bincount(row, np.minimum(coefficient, 0.0), minlength=len(left))
        most = np.bincount(row, np.maximum(coefficient, 0.0), minlength=len(left))
        upper = np.clip(left / unit, least - 1, most)
        upper = np.where(whole, np.floor(upper), upper)
        self.add(row, column, coefficient, upper, whole)

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

    def joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, column and coefficient, sorted by row."""
        row, column, coefficient = (np.concatenate(p) for p in zip(*self.parts, strict=True))
        order = np.lexsort((column, row))
        return row[order], column[order], coefficient[order]


def _units(row: np.ndarray, extra: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The unit that each row is divided by, and whether its coefficients are whole then.

    Costs that are small multiples of the smallest one give integer knapsacks, which the solvers
    know best; other rows are scaled to their capacity.
    """
    num_rows = len(left)
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
