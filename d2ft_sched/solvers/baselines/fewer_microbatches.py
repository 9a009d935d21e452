"""Whole micro-batches left out, everything else dense: the baseline that is hardest to beat."""

import time

import numpy as np

from d2ft_sched.files.counted import counted
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.solution import Solution
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.solvers.baselines.moves import heuristic_solution


def solve_fewer_microbatches(
    problem: Problem, *, time_limit_s: float | None = None, seed: int = 0
) -> Solution:
    """Keep micro-batches FULL in all subnets, those of most value first, as long as they fit.

    Where that keeps not all constraints, such as a coverage, it starts from all micro-batches and
    leaves out those of least value until all hold.

    Best possible where all micro-batches cost the same. A micro-batch left out skips the trunk as
    well, which this problem does not price.

    Args:
        problem: any.
        time_limit_s: not used.
        seed: not used.
    """
    begin = time.perf_counter()
    schedule = uniform_schedule(problem.num_subnets, problem.num_microbatches, Operation.SHORTCUT)
    gain = (problem.value[..., Operation.FULL] - problem.value[..., Operation.SHORTCUT]).sum(axis=0)
    order = np.argsort(-gain, kind="stable")
    for i in order:
        schedule[:, i] = Operation.FULL
        if gain[i] < 0 or problem.violation(schedule):
            schedule[:, i] = Operation.SHORTCUT
    if problem.violation(schedule):
        schedule[:] = Operation.FULL
        for i in order[::-1]:
            if not problem.violation(schedule):
                break
            schedule[:, i] = Operation.SHORTCUT
    kept = np.count_nonzero(schedule[0] == Operation.FULL)
    method = (
        f"{kept} of {counted(problem.num_microbatches, 'micro-batch')} dense, the rest left out"
    )
    return heuristic_solution(problem, schedule, begin, "fewer_microbatches", method)
