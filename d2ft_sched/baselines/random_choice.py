"""Random schedules that spend what a plan may spend: the contrast to choosing by score."""

import time

import numpy as np

from d2ft_sched.operations import Operation
from d2ft_sched.problem import Problem
from d2ft_sched.solution import Solution, Status, checked_solution, no_schedule


def solve_random(problem: Problem, *, time_limit_s: float | None = None, seed: int = 0) -> Solution:
    """Fill every knapsack in random order: FULL as long as it fits, then FORWARD_ONLY.

    Scores play no part. With equal costs a knapsack gets as many FULL operations as fit at all, so
    a random schedule costs what a plan of the same capacity does.

    Args:
        problem: without shared constraints, whose SHORTCUT fits; else there may be no schedule.
        time_limit_s: not needed.
        seed: of the order.
    """
    start = time.perf_counter()
    schedule = fill_in_order(problem, np.random.default_rng(seed).random(problem.knapsack.shape))
    solve_s = time.perf_counter() - start
    if problem.violation(schedule) is not None:
        return no_schedule(
            Status.TIME_LIMIT, upper_bound=np.inf, build_s=0.0, solve_s=solve_s, solver="random",
            method="random order found no schedule that keeps every constraint",
        )  # fmt: skip
    return checked_solution(
        problem,
        schedule,
        upper_bound=np.inf,
        status=Status.FEASIBLE,
        build_s=0.0,
        solve_s=solve_s,
        solver="random",
        method=f"random order, seed {seed}: FULL while it fits, then FORWARD_ONLY",
    )


def fill_in_order(problem: Problem, priority: np.ndarray) -> np.ndarray:
    """Schedule from filling every knapsack by falling priority, FULL first, then FORWARD_ONLY.

    Args:
        problem: costs and capacities.
        priority: float ``[num_subnets, num_microbatches]``.

    Returns:
        int8 ``[num_subnets, num_microbatches]``.
    """
    knapsack = problem.knapsack.ravel()
    cost = problem.cost.reshape(problem.num_resources, problem.num_items, -1)
    order = np.lexsort((-priority.ravel(), knapsack))
    sizes = np.bincount(knapsack, minlength=problem.num_knapsacks)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    chosen = np.full(problem.num_items, Operation.SHORTCUT, dtype=np.int8)
    left = problem.admitted.copy()
    np.subtract.at(left, knapsack, cost[:, :, Operation.SHORTCUT].T)
    for operation in (Operation.FULL, Operation.FORWARD_ONLY):
        extra = (cost[:, :, operation] - cost[:, :, Operation.SHORTCUT]).T
        for rank in range(int(sizes.max())):
            has_item = np.flatnonzero(sizes > rank)
            items = order[first[has_item] + rank]
            fits = (extra[items] <= left[has_item]).all(axis=1)
            fits &= chosen[items] == Operation.SHORTCUT
            chosen[items[fits]] = operation
            left[has_item[fits]] -= extra[items[fits]]
    return chosen.reshape(problem.knapsack.shape)
