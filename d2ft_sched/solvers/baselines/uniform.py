"""A schedule that looks at no scores and is evenly spread."""

import time

import numpy as np

from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.solution import Solution
from d2ft_sched.solvers.baselines.moves import apply_moves, full_then_forward, heuristic_solution

GOLDEN_RATIO = (5**0.5 - 1) / 2


def solve_uniform(
    problem: Problem, *, time_limit_s: float | None = None, seed: int = 0
) -> Solution:
    """FULL spread evenly over subnets and micro-batches, then FORWARD_ONLY in what is left.

    Micro-batch i of subnet s comes at the fractional part of (i + s) times the golden ratio, an
    order whose beginnings are all evenly spread.

    Args:
        problem: any.
        time_limit_s: not used.
        seed: not used.
    """
    begin = time.perf_counter()
    subnet, microbatch = np.indices((problem.num_subnets, problem.num_microbatches))
    order = np.argsort(((subnet + microbatch) * GOLDEN_RATIO % 1.0).ravel(), kind="stable")
    schedule = apply_moves(problem, *full_then_forward(order))
    return heuristic_solution(problem, schedule, begin, "uniform", "evenly spread, without scores")
