"""Solvers that prove something see gains: what each possible operation adds to SHORTCUT.

So a solver's tolerances are relative to what is at stake, not to an offset that every schedule has,
nor to the value of an operation that none can choose. What a solver proved of the gains is then
judged by the problem's own values.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from math import fsum
from typing import Any

import numpy as np

from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.solution import Checkable, Solution, Status
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation
from d2ft_sched.solvers.possible import possible_operations
from d2ft_sched.solvers.single.core_search import PART_OF_STEP
from d2ft_sched.solvers.single.value_grid import value_step

ROUNDING = 1e-14
"""Of sums of gains, relative."""


def on_gains(solver: Callable[..., Solution]) -> Callable[..., Solution]:
    """The solver, given a problem's gains; its solution in the problem's own values."""

    @functools.wraps(solver)
    def solve(problem: Problem, **options: Any) -> Solution:
        value = problem.value.reshape(-1, NUM_OPERATIONS)
        allowed = possible_operations(problem)
        base = value[:, Operation.SHORTCUT].copy()
        other = np.flatnonzero(~allowed[:, Operation.SHORTCUT])
        least = np.where(allowed[other], value[other], np.inf).min(axis=1)
        base[other] = np.where(np.isfinite(least), least, 0.0)
        if allowed.all() and not base.any():
            gains = problem
        else:
            gain = np.where(allowed, value - base[:, None], 0.0)
            gains = replace(problem, value=gain.reshape(problem.value.shape))
        solution = solver(gains, **options)
        if solution.schedule is None:
            bound = solution.upper_bound + fsum(base.tolist())
            return replace(solution, upper_bound=bound)
        return in_values(problem, gains, solution, allowed)

    return solve


def in_values(
    problem: Checkable, gains: Checkable, solution: Solution, allowed: np.ndarray
) -> Solution:
    """The solution with objective, bound and status by the problem's values.

    Args:
        problem: with these.
        gains: what was solved.
        solution: of it; with a schedule.
        allowed: operations that a schedule may choose, bool ``[num_items, num_operations]``.
    """
    assert solution.schedule is not None
    by_operation = gains.value.reshape(len(allowed), -1).T[:, None]
    step = PART_OF_STEP * float(value_step(by_operation, allowed.T[:, None])[0])
    chosen = solution.schedule[..., None].astype(np.intp)
    objective = fsum(np.take_along_axis(problem.value, chosen, axis=2).ravel().tolist())
    missing = max(0.0, solution.upper_bound - solution.objective)
    if missing < step:
        return replace(solution, objective=objective, upper_bound=objective, status=Status.OPTIMAL)
    if gains is problem:
        return solution
    at_choice = np.take_along_axis(gains.value, chosen, axis=2)
    missing += ROUNDING * float(np.abs(at_choice).sum())
    status = solution.status
    if status == Status.OPTIMAL and missing > solution.tolerance * abs(objective):
        status = Status.FEASIBLE
    return replace(solution, objective=objective, upper_bound=objective + missing, status=status)
