"""All knapsacks of a problem, prepared once and solved again and again for other values."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.problem.problem import Problem
from d2ft_sched.solvers.single.equal_costs import (
    EqualCostBatch,
    equal_cost_batches,
    has_equal_costs,
    solve_equal_costs,
)
from d2ft_sched.solvers.single.knapsacks import knapsack_runs
from d2ft_sched.solvers.single.scaled_batch import ScaledBatch, scaled_batches
from d2ft_sched.solvers.single.unequal_costs import solve_unequal_costs


@dataclass(frozen=True, eq=False)
class PricedKnapsacks:
    """Knapsacks in batches; `possible` is False if one of them cannot hold anything."""

    equal: tuple[EqualCostBatch, ...]
    unequal: tuple[ScaledBatch, ...]
    num_items: int
    possible: bool

    def best(
        self, value: np.ndarray, *, max_states: int, deadline: float
    ) -> tuple[np.ndarray, float]:
        """The best choice of every knapsack found, and a bound on their sum.

        Args:
            value: float ``[num_items, 3]``.
            max_states: of the search over unequal costs.
            deadline: `time.perf_counter` value at which that search stops.

        Returns:
            Operation of each item, int8 ``[num_items]``, and the bound: -inf if a knapsack has no
            feasible choice.
        """
        operation = np.zeros(self.num_items, dtype=np.int8)
        bound = 0.0
        for batch in self.equal:
            chosen, feasible = solve_equal_costs(batch, value)
            item = batch.item[batch.present]
            operation[item] = chosen[batch.present]
            bound += float(value[item, operation[item]].sum())
            if not feasible.all():
                return operation, float("-inf")
        for scaled in self.unequal:
            result = solve_unequal_costs(scaled, value, max_states=max_states, deadline=deadline)
            operation[scaled.item[scaled.present]] = result.operation[scaled.present]
            bound += float(result.bound.sum())
        return operation, bound


def priced_knapsacks(problem: Problem, run_items: int) -> PricedKnapsacks:
    """Prepare a problem, `run_items` items to a batch."""
    equal: list[EqualCostBatch] = []
    unequal: list[ScaledBatch] = []
    for run in knapsack_runs(problem, run_items):
        same = has_equal_costs(run)
        equal += equal_cost_batches(run.take_where(same))
        unequal += scaled_batches(run.take_where(~same))
    possible = all(b.possible.all() for b in unequal)
    return PricedKnapsacks(tuple(equal), tuple(unequal), problem.num_items, possible)
