"""What a solver found and what it proved."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from d2ft_sched.problem.problem import ROUNDING

OPTIMALITY_TOLERANCE = 1e-9
"""Relative gap up to which a schedule counts as optimal."""


class Status(StrEnum):
    """How a solver ended."""

    OPTIMAL = "OPTIMAL"
    """The schedule is proven optimal, within the solution's relative tolerance."""
    FEASIBLE = "FEASIBLE"
    """The schedule keeps every constraint; optimality is not proven."""
    INFEASIBLE = "INFEASIBLE"
    """No schedule exists; proven."""
    TIME_LIMIT = "TIME_LIMIT"
    """Ended before proof: at a limit of time or nodes, or with no schedule that its rules find."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Result of `solve`.

    Attributes:
        schedule: operations, int8 ``[num_subnets, num_microbatches]``; None where none was found.
        objective: sum of the values of the chosen operations; -inf without a schedule.
        upper_bound: proven bound on any schedule's objective; inf where the solver has none.
        status: how the solver ended.
        build_s: seconds to set the problem up for the solver.
        solve_s: seconds to solve it.
        solver: registry name.
        method: what was done, and why where it was chosen.
        tolerance: relative gap up to which the schedule counts as optimal.
    """

    schedule: np.ndarray | None
    objective: float
    upper_bound: float
    status: Status
    build_s: float
    solve_s: float
    solver: str
    method: str
    tolerance: float = OPTIMALITY_TOLERANCE

    @property
    def gap(self) -> float:
        """(upper bound - objective) / abs(objective); the difference where the objective is 0."""
        return relative_gap(self.objective, self.upper_bound)


def relative_gap(objective: float, upper_bound: float) -> float:
    """See `Solution.gap`; inf where there is no objective."""
    if not np.isfinite(objective):
        return float("inf")
    difference = max(0.0, upper_bound - objective)
    return difference / abs(objective) if objective else difference


class Checkable(Protocol):
    """What a schedule is checked against: a problem, with setups or without.

    Attributes:
        value: float ``[num_subnets, num_microbatches, num_operations]``.
    """

    @property
    def value(self) -> np.ndarray: ...

    def objective(self, schedule: np.ndarray) -> float:
        """Sum of the values of the chosen operations."""

    def violation(self, schedule: np.ndarray) -> str | None:
        """The first constraint that a schedule breaks, as one line; None if it keeps all."""


def checked_solution(
    problem: Checkable,
    schedule: np.ndarray,
    *,
    upper_bound: float,
    status: Status,
    build_s: float,
    solve_s: float,
    solver: str,
    method: str,
    tolerance: float = OPTIMALITY_TOLERANCE,
) -> Solution:
    """A solution whose schedule was checked and whose objective was recomputed from the problem.

    A status is never overstated: OPTIMAL becomes FEASIBLE where the bound does not prove it, and
    FEASIBLE or TIME_LIMIT become OPTIMAL where the bound does, within the relative `tolerance`.

    Raises:
        RuntimeError: the schedule breaks a constraint or beats its bound: the solver has an error.
    """
    schedule = np.ascontiguousarray(schedule, dtype=np.int8)
    violation = problem.violation(schedule)
    if violation:
        raise RuntimeError(f"solver {solver}: {violation}")
    objective = problem.objective(schedule)
    at_choice = np.take_along_axis(problem.value, schedule[..., None].astype(np.intp), axis=2)
    magnitude = float(np.abs(at_choice).sum())
    if np.isfinite(upper_bound):
        magnitude += abs(upper_bound)
    slack = tolerance * abs(objective) + ROUNDING * magnitude
    if objective > upper_bound + slack:
        raise RuntimeError(f"solver {solver}: objective {objective} beats its bound {upper_bound}")
    upper_bound = max(upper_bound, objective)
    proven = upper_bound - objective <= slack
    if proven:
        status = Status.OPTIMAL
    elif status == Status.OPTIMAL:
        status = Status.FEASIBLE
    return Solution(
        schedule, objective, upper_bound, status, build_s, solve_s, solver, method, tolerance
    )


def no_schedule(
    status: Status, *, upper_bound: float, build_s: float, solve_s: float, solver: str, method: str
) -> Solution:
    """A solution without a schedule: INFEASIBLE, or TIME_LIMIT before one was found."""
    return Solution(None, float("-inf"), upper_bound, status, build_s, solve_s, solver, method)
