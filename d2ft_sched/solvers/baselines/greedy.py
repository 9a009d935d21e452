"""Greedy by value density."""

import time

import numpy as np

from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.solution import Solution
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation
from d2ft_sched.solvers.baselines.moves import apply_moves, heuristic_solution


def solve_greedy(problem: Problem, *, time_limit_s: float | None = None, seed: int = 0) -> Solution:
    """Operations by falling gain over SHORTCUT per largest share of a capacity, while they fit.

    An item may move up from FORWARD_ONLY to FULL later on.

    Args:
        problem: any.
        time_limit_s: not used.
        seed: not used.
    """
    begin = time.perf_counter()
    value = problem.value.reshape(-1, NUM_OPERATIONS)
    cost = problem.cost.reshape(problem.num_resources, problem.num_items, NUM_OPERATIONS)
    knapsack = problem.knapsack.ravel()
    moves = [np.full(problem.num_items, o) for o in (Operation.FULL, Operation.FORWARD_ONLY)]
    operation = np.concatenate(moves)
    item = np.tile(np.arange(problem.num_items), len(moves))
    gain = value[item, operation] - value[item, Operation.SHORTCUT]
    share = np.zeros(len(item))
    for r, c in enumerate(cost):
        extra = np.maximum(c[item, operation] - c[item, Operation.SHORTCUT], 0.0)
        capacity = problem.admitted[knapsack[item], r]
        part = np.divide(extra, capacity, out=np.full(len(item), np.inf), where=capacity > 0)
        np.maximum(share, np.where(extra > 0, part, 0.0), out=share)
    density = np.divide(gain, share, out=np.full(len(item), np.inf), where=share > 0)
    order = np.argsort(-density, kind="stable")
    schedule = apply_moves(problem, item[order], operation[order], improving=True)
    return heuristic_solution(problem, schedule, begin, "greedy", "by value per share of capacity")
