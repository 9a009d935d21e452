"""Every limit of a problem with setups as one row over items and groups."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from d2ft_sched.problem.problem import CAPACITY_TOLERANCE, ROUNDING
from d2ft_sched.problem.setups import SetupProblem
from d2ft_sched.problem.shared import NOT_COUNTED, SharedLimit
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.solvers.coupled.shared_rows import reachable_limits

NUM_CHOICES = len(Operation)
"""Operations of an item: REST is one of them here."""

TRAIN = 1
"""Where the setups of a group stand among the choices: it trains or, weighing nothing, rests."""


@dataclass(frozen=True, eq=False)
class SetupRows:
    """sum over items of weight[item, operation] + sum over training groups of weight <= limit.

    Rows that nothing can break are left out. Where a row's weights are multiples of a unit its
    limit is lowered to the next multiple. Rows are scaled so that usage and limit are about 1.

    Attributes:
        matrix: weights, sparse ``[num_rows, 4 * num_items + num_groups]``; column
            ``operation * num_items + item``, then the groups.
        limit: float ``[num_rows]``.
        is_setup: whether a row counts groups alone, bool ``[num_rows]``.
        allowed: whether an operation fits beside the smallest weights of all else, bool
            ``[4, num_items]``.
        may_train: whether a group's setups do, bool ``[num_groups]``.
        impossible: whether a row cannot hold even with the smallest weights.
    """

    matrix: sparse.csr_matrix
    limit: np.ndarray
    is_setup: np.ndarray
    allowed: np.ndarray
    may_train: np.ndarray
    impossible: bool


@dataclass(frozen=True, eq=False)
class _Family:
    """Rows of one kind: row of each item (-1: none) and weight of its operations
    ``[num_items, 4]``, and the setup of each row and group ``[num_rows, num_groups]``."""

    row: np.ndarray
    weight: np.ndarray
    setup: np.ndarray
    limit: np.ndarray


def setup_rows(problem: SetupProblem) -> SetupRows:
    """The rows of a problem with setups."""
    num_items = problem.problem.num_items
    allowed = np.ones((num_items, NUM_CHOICES), dtype=bool)
    may_train = np.ones(problem.num_groups, dtype=bool)
    parts: list[sparse.csr_matrix] = []
    limits: list[np.ndarray] = []
    is_setup: list[np.ndarray] = []
    impossible = False
    for family in _families(problem):
        counted = np.flatnonzero(family.row != NOT_COUNTED)
        row, weight = family.row[counted], family.weight[counted]
        num_rows = len(family.limit)
        smallest = np.bincount(row, weight.min(axis=1), minlength=num_rows)
        dearest = np.bincount(row, weight.max(axis=1), minlength=num_rows)
        largest = dearest + family.setup.sum(axis=1)
        present = np.bincount(row, minlength=num_rows) > 0
        over = smallest > family.limit + ROUNDING * np.abs(family.limit)
        impossible |= bool((present & over).any())
        left = np.maximum(family.limit - smallest, 0.0) + ROUNDING * np.abs(family.limit)
        allowed[counted] &= weight - weight.min(axis=1, keepdims=True) <= left[row][:, None]
        may_train &= (family.setup <= left[:, None]).all(axis=0)
        kept = np.flatnonzero((largest > family.limit) & (present | family.setup.any(axis=1)))
        limit = _lowered(family, smallest)[kept]
        scale = np.where(limit > 0, limit, np.maximum(np.abs(limit), largest[kept]))
        scale = np.where(scale > 0, scale, 1.0)
        parts.append(sparse.diags_array(1 / scale) @ _matrix(family)[kept])
        limits.append(limit / scale)
        is_setup.append(np.full(len(kept), not len(counted)))
    return SetupRows(
        matrix=sparse.csr_matrix(sparse.vstack(parts)),
        limit=np.concatenate(limits),
        is_setup=np.concatenate(is_setup),
        allowed=np.ascontiguousarray(allowed.T),
        may_train=may_train,
        impossible=impossible,
    )


def _lowered(family: _Family, smallest: np.ndarray) -> np.ndarray:
    """Limits lowered to what items and setups can reach, float ``[num_rows]``."""
    row, group = np.nonzero(family.setup)
    paid = np.zeros((len(row), NUM_CHOICES))
    paid[:, TRAIN] = family.setup[row, group]
    entry_row = np.concatenate([family.row, row])
    entry_weight = np.concatenate([family.weight, paid])
    return reachable_limits(entry_row, entry_weight, smallest, family.limit)


def _matrix(family: _Family) -> sparse.csr_matrix:
    num_items = len(family.row)
    used = (family.row != NOT_COUNTED) & (family.weight.T != 0)
    choice, item = np.nonzero(used)
    entries = (family.weight[item, choice], (family.row[item], choice * num_items + item))
    items = sparse.csr_matrix(entries, shape=(len(family.limit), NUM_CHOICES * num_items))
    return sparse.csr_matrix(sparse.hstack([items, sparse.csr_matrix(family.setup)]))


def _families(problem: SetupProblem) -> Iterator[_Family]:
    base = problem.problem
    cost = problem.cost.reshape(base.num_resources, base.num_items, NUM_CHOICES)
    for r in range(base.num_resources):
        update = problem.group_knapsack_cost[:, r]
        yield _Family(base.knapsack.ravel(), cost[r], update, base.admitted[:, r])
    for constraint in base.shared:
        if isinstance(constraint, SharedLimit):
            row, weight = constraint.group.ravel(), cost[constraint.resource]
            limit = constraint.capacity * (1 + CAPACITY_TOLERANCE)
        else:
            group, microbatch = constraint.group[:, None], np.arange(base.num_microbatches)
            number = group * base.num_microbatches + microbatch
            row = np.where(group == NOT_COUNTED, NOT_COUNTED, number).ravel()
            weight = np.full((base.num_items, NUM_CHOICES), -1.0)
            weight[:, Operation.SHORTCUT] = 0.0
            num_rows = (int(constraint.group.max()) + 1) * base.num_microbatches
            limit = np.full(num_rows, -float(constraint.minimum))
        yield _Family(row, weight, np.zeros((len(limit), problem.num_groups)), limit)
    nowhere = np.full(base.num_items, NOT_COUNTED)
    nothing = np.zeros((base.num_items, NUM_CHOICES))
    yield _Family(nowhere, nothing, problem.group_setup_cost, problem.setup_admitted)
