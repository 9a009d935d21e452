"""Exact solver of separable problems: it chooses the algorithm per knapsack."""

import time

import numpy as np

from d2ft_sched.operations import NUM_OPERATIONS
from d2ft_sched.problem import Problem
from d2ft_sched.solution import Solution, Status, checked_solution, no_schedule
from d2ft_sched.solvers.equal_costs import (
    equal_cost_batches,
    has_equal_costs,
    solve_equal_costs,
)
from d2ft_sched.solvers.knapsacks import knapsack_runs

RUN_ITEMS = 32_768
"""Items that are worked on at a time: their arrays fit into a core's cache."""


def solve_dp(problem: Problem, *, time_limit_s: float | None, seed: int) -> Solution:
    """Joint optimum over all three operations, knapsack by knapsack."""
    begin = time.perf_counter()
    value = problem.value.reshape(-1, NUM_OPERATIONS)
    operation = np.empty(problem.num_items, dtype=np.int8)
    for run in knapsack_runs(problem, RUN_ITEMS):
        if not has_equal_costs(run).all():
            raise NotImplementedError("unequal costs")
        for batch in equal_cost_batches(run):
            chosen, feasible = solve_equal_costs(batch, value)
            if not feasible.all():
                return no_schedule(
                    Status.INFEASIBLE,
                    upper_bound=float("-inf"),
                    build_s=0.0,
                    solve_s=time.perf_counter() - begin,
                    solver="dp",
                    method="a knapsack has no feasible choice",
                )
            present = np.arange(batch.width) < batch.size[:, None]
            operation[batch.item[present]] = chosen[present]
    schedule = operation.reshape(problem.num_subnets, problem.num_microbatches)
    return checked_solution(
        problem,
        schedule,
        upper_bound=problem.objective(schedule),
        status=Status.OPTIMAL,
        build_s=0.0,
        solve_s=time.perf_counter() - begin,
        solver="dp",
        method="exact over counts: items of a knapsack cost the same",
    )
