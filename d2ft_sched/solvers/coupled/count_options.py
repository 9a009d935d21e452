"""All choices of equal-cost knapsacks by counts, where the shared rows see only counts too.

Where a knapsack's items have the same weights in the same shared rows (devices on a link, a cluster
budget), a choice's part in every constraint depends on (num_full, num_forward_only) alone. The best
choice of every pair of counts is then a complete list of options.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.problem.problem import Problem
from d2ft_sched.schedule.operations import NUM_OPERATIONS
from d2ft_sched.solvers.coupled.shared_rows import SharedRows
from d2ft_sched.solvers.single.equal_costs import EqualCostBatch
from d2ft_sched.solvers.single.priced_knapsacks import PricedKnapsacks
from d2ft_sched.solvers.single.split_sweep import operations_at, sorted_gains, sweep

MAX_ENTRIES = 30_000_000
"""Largest table of values by counts."""

EQUAL_WEIGHTS_TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False)
class CountOptions:
    """One option per pair of counts.

    Attributes:
        num_full: int ``[num_options]``.
        num_forward: int ``[num_options]``.
        value: best value, float ``[num_options, num_knapsacks]``; -inf where infeasible.
        size: items of each knapsack.
        weight: of the items of each (knapsack, row) pair, float ``[num_pairs, 3]``.
        rows: the shared rows.
    """

    num_full: np.ndarray
    num_forward: np.ndarray
    value: np.ndarray
    size: np.ndarray
    weight: np.ndarray
    rows: SharedRows

    def __len__(self) -> int:
        return len(self.num_full)

    def reduced(self, price: np.ndarray) -> np.ndarray:
        """Value less the usage at the rows' prices, float ``[num_options, num_knapsacks]``."""
        owner = self.rows.pair_knapsack
        charge = np.zeros((NUM_OPERATIONS, len(self.size)))
        for o in range(NUM_OPERATIONS):
            paid = self.weight[:, o] * price[self.rows.pair_row]
            charge[o] = np.bincount(owner, paid, minlength=len(self.size))
        full, forward = self.num_full[:, None], self.num_forward[:, None]
        reduced = self.value - self.size * charge[0]
        reduced -= full * (charge[2] - charge[0])
        reduced -= forward * (charge[1] - charge[0])
        return reduced

    def usage_at(self, option: np.ndarray, pair: np.ndarray) -> np.ndarray:
        """Usage of pairs by options, of the arrays' common shape."""
        full, forward = self.num_full[option], self.num_forward[option]
        rest = self.size[self.rows.pair_knapsack[pair]] - full - forward
        weight = self.weight[pair]
        return rest * weight[..., 0] + forward * weight[..., 1] + full * weight[..., 2]


def count_options(
    problem: Problem, rows: SharedRows, knapsacks: PricedKnapsacks
) -> CountOptions | None:
    """The options of a problem; None where the rows see more than counts, or too many options."""
    weight = _pair_weights(problem, rows)
    if knapsacks.unequal or weight is None:
        return None
    width = max(batch.width for batch in knapsacks.equal)
    counts = np.arange(width + 1)
    num_full, num_forward = np.nonzero(counts[:, None] + counts <= width)
    if len(num_full) * problem.num_knapsacks > MAX_ENTRIES:
        return None
    knapsack = problem.knapsack.ravel()
    value = problem.value.reshape(-1, NUM_OPERATIONS)
    table = np.full((len(num_full), problem.num_knapsacks), -np.inf)
    for batch in knapsacks.equal:
        _write_table(table, num_full, num_forward, batch, value, knapsack[batch.item[:, 0]])
    size = np.bincount(knapsack, minlength=problem.num_knapsacks)
    table[:, size == 0] = np.where(num_full + num_forward == 0, 0.0, -np.inf)[:, None]
    return CountOptions(num_full, num_forward, table, size, weight, rows)


def operations_of_counts(
    counts: CountOptions, knapsacks: PricedKnapsacks, problem: Problem, taken: np.ndarray
) -> np.ndarray:
    """Operation of each item where knapsack k takes option ``taken[k]``, int8 ``[num_items]``."""
    operation = np.zeros(problem.num_items, dtype=np.int8)
    value = problem.value.reshape(-1, NUM_OPERATIONS)
    knapsack = problem.knapsack.ravel()
    for batch in knapsacks.equal:
        option = taken[knapsack[batch.item[:, 0]]]
        num_full, num_forward = counts.num_full[option], counts.num_forward[option]
        gains = sorted_gains(value[batch.item], batch.present, clamped=False)
        column = np.arange(len(option))
        best = np.full(len(option), -np.inf)
        best_split = np.zeros(len(option), dtype=np.int64)
        for split, (before, after) in enumerate(sweep(gains, int(num_full.max()) + 1)):
            candidate = before[num_full, column] + after[num_forward, column]
            better = candidate > best
            best = np.where(better, candidate, best)
            best_split = np.where(better, split, best_split)
        chosen = operations_at(gains, best_split, num_full, num_forward)
        operation[batch.item[batch.present]] = chosen[batch.present]
    return operation


def _pair_weights(problem: Problem, rows: SharedRows) -> np.ndarray | None:
    """Weights of the items of each (knapsack, row) pair; None if they differ or are partial."""
    num_pairs = len(rows.pair_row)
    size = np.bincount(problem.knapsack.ravel(), minlength=problem.num_knapsacks)
    total = np.zeros((num_pairs, NUM_OPERATIONS))
    for pair, weight in zip(rows.pair, rows.weight, strict=True):
        counted = np.flatnonzero(pair >= 0)
        where = pair[counted]
        members = np.bincount(where, minlength=num_pairs)
        if (members[members > 0] != size[rows.pair_knapsack[members > 0]]).any():
            return None
        first = np.zeros(num_pairs, dtype=np.int64)
        first[where[::-1]] = counted[::-1]
        own = weight[first] * (members > 0)[:, None]
        difference = np.abs(weight[counted] - own[where])
        if (difference > EQUAL_WEIGHTS_TOLERANCE * np.abs(own[where])).any():
            return None
        total += own
    return total


def _write_table(
    table: np.ndarray,
    num_full: np.ndarray,
    num_forward: np.ndarray,
    batch: EqualCostBatch,
    value: np.ndarray,
    column: np.ndarray,
) -> None:
    """Best value of every feasible pair of counts of a batch, into the given columns."""
    inside = np.flatnonzero(num_full + num_forward <= batch.width)
    full, forward = num_full[inside], num_forward[inside]
    most = batch.most_forward[full]
    feasible = (most <= batch.width) & (forward[:, None] <= most)
    if batch.least_forward is not None:
        feasible &= forward[:, None] >= batch.least_forward[full]
    gains = sorted_gains(value[batch.item], batch.present, clamped=False)
    best = np.full((len(inside), len(column)), -np.inf)
    for before, after in sweep(gains, batch.width + 1):
        np.maximum(best, before[full] + after[forward], out=best)
    base = (value[batch.item, 0] * batch.present).sum(axis=1)
    table[inside[:, None], column] = np.where(feasible, best + base, -np.inf)
