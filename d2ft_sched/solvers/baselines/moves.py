"""Changes of operations, taken in a given order as far as every constraint allows."""

import time

import numpy as np

from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.solution import Solution, Status, checked_solution, no_schedule
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation
from d2ft_sched.solvers.coupled.item_moves import fit_in_rows
from d2ft_sched.solvers.coupled.shared_rows import shared_rows


def apply_moves(
    problem: Problem,
    item: np.ndarray,
    operation: np.ndarray,
    *,
    improving: bool = False,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Go through the moves in order; take each that fits and is a step up.

    Knapsacks advance together: the j-th move of all of them is one step, within which the order
    decides who gets what is left of a shared limit.

    Args:
        problem: the problem.
        item: flattened item of each move, most preferred first.
        operation: operation that it would get, of the same shape.
        improving: whether a move must add value, too.
        start: operation of each item before, int8 ``[num_items]``; all SHORTCUT by default.

    Returns:
        Schedule, int8 ``[num_subnets, num_microbatches]``.
    """
    current = np.zeros(problem.num_items, dtype=np.int8) if start is None else start.copy()
    shape = (problem.num_subnets, problem.num_microbatches)
    value = problem.value.reshape(-1, NUM_OPERATIONS)
    cost = problem.cost.reshape(problem.num_resources, problem.num_items, NUM_OPERATIONS)
    knapsack = problem.knapsack.ravel()
    rows = shared_rows(problem)
    left = problem.admitted - problem.spending(current.reshape(shape))
    row_left = rows.limit - rows.row_usage(rows.pair_usage(current))
    for step in _steps(knapsack[item]):
        items, new = item[step], operation[step]
        old = current[items]
        owner = knapsack[items]
        wanted = new > old
        if improving:
            wanted &= value[items, new] > value[items, old]
        for r, c in enumerate(cost):
            extra = c[items, new] - c[items, old]
            wanted &= (extra <= 0) | (extra <= left[owner, r])
        items, new, old, owner = items[wanted], new[wanted], old[wanted], owner[wanted]
        fits = fit_in_rows(rows, items, old, new, row_left)
        items, new, old, owner = items[fits], new[fits], old[fits], owner[fits]
        for r, c in enumerate(cost):
            left[owner, r] -= c[items, new] - c[items, old]
        for row, weight in zip(rows.row, rows.weight, strict=True):
            inside = row[items] >= 0
            extra = weight[items, new] - weight[items, old]
            np.subtract.at(row_left, row[items[inside]], extra[inside])
        current[items] = new
    return current.reshape(shape)


def _steps(owner: np.ndarray) -> list[np.ndarray]:
    """Indices of each knapsack's first move, of its second one, ..., each in order."""
    by_owner = np.argsort(owner, kind="stable")
    count = np.bincount(owner)
    rank = np.empty(len(owner), dtype=np.int64)
    rank[by_owner] = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    by_rank = np.argsort(rank, kind="stable")
    return np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]) if len(owner) else []


def full_then_forward(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves to FULL in the given order of items, then to FORWARD_ONLY in the same order."""
    operation = np.repeat(np.array([Operation.FULL, Operation.FORWARD_ONLY]), len(order))
    return np.tile(order, 2), operation


def heuristic_solution(
    problem: Problem, schedule: np.ndarray, begin: float, solver: str, method: str
) -> Solution:
    """The solution of a rule that proves nothing, so that it has no bound.

    Args:
        problem: the problem.
        schedule: operations, ``[num_subnets, num_microbatches]``.
        begin: `time.perf_counter` value when the rule started.
        solver: its name.
        method: what it did.
    """
    solve_s = time.perf_counter() - begin
    violation = problem.violation(schedule)
    if violation:
        return no_schedule(
            Status.TIME_LIMIT,
            upper_bound=float("inf"),
            build_s=0.0,
            solve_s=solve_s,
            solver=solver,
            method=f"{method}; it keeps not all constraints: {violation}",
        )
    return checked_solution(
        problem,
        schedule,
        upper_bound=float("inf"),
        status=Status.FEASIBLE,
        build_s=0.0,
        solve_s=solve_s,
        solver=solver,
        method=method,
    )
