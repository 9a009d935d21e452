"""Problems with setups by prices: a dual bound, and exact knapsacks for the sets that beat it."""

import time
from dataclasses import dataclass

import numpy as np

from d2ft_sched.problem.setups import SetupProblem
from d2ft_sched.problem.solution import (
    OPTIMALITY_TOLERANCE,
    Solution,
    Status,
    checked_solution,
    no_schedule,
)
from d2ft_sched.solvers.dp import solve_dp
from d2ft_sched.solvers.setups.separate import MAX_GROUPS, part_of_groups, solve_separated
from d2ft_sched.solvers.setups.setup_dual import SetupDual
from d2ft_sched.solvers.setups.setup_rows import SetupRows, setup_rows
from d2ft_sched.solvers.setups.training_sets import greedy_set, sets_by_worth

FEW_GROUPS = 2
"""Parts of up to this many groups are solved exactly at once, those of more only if prices leave a
gap."""

MAX_SETS = 5_000
"""Training sets that are looked at."""

MAX_SOLVED = 128
"""Of them, those whose knapsacks are solved."""


def solve_setup_lagrangian(
    problem: SetupProblem, *, time_limit_s: float | None, seed: int
) -> Solution:
    """Prices on every limit bound the optimum; given what trains, the knapsacks are solved exactly.

    Training sets are gone through by falling dual bound until none that is left can beat the best
    schedule, which is optimal then, or until a limit is met. Where groups separate, they are solved
    exactly instead (`separate`). Deterministic.

    Args:
        problem: any.
        time_limit_s: ends the search.
        seed: not used.
    """
    begin = time.perf_counter()
    deadline = float("inf") if time_limit_s is None else begin + time_limit_s
    rows = setup_rows(problem)
    part = part_of_groups(problem, rows)
    search = _Search(problem, rows, deadline)
    build_s = time.perf_counter() - begin
    largest_part = int(np.bincount(part).max())
    separates = largest_part <= MAX_GROUPS and not problem.problem.shared
    if rows.impossible:
        search.bound = float("-inf")
    elif separates and largest_part <= FEW_GROUPS:
        search.separate(part)
    if not search.is_settled():
        search.by_worth()
    if separates and largest_part > FEW_GROUPS and not search.is_settled():
        search.separate(part)
    solve_s = time.perf_counter() - begin - build_s
    method = "; ".join(search.said)
    if search.best is None:
        infeasible = np.isneginf(search.bound)
        return no_schedule(
            Status.INFEASIBLE if infeasible else Status.TIME_LIMIT,
            upper_bound=search.bound,
            build_s=build_s,
            solve_s=solve_s,
            solver="lagrangian",
            method=method,
        )
    return checked_solution(
        problem,
        search.best,
        upper_bound=search.bound,
        status=Status.FEASIBLE if time.perf_counter() < deadline else Status.TIME_LIMIT,
        build_s=build_s,
        solve_s=solve_s,
        solver="lagrangian",
        method=method,
    )


@dataclass
class _Search:
    """Best schedule and bound so far."""

    problem: SetupProblem
    rows: SetupRows
    deadline: float

    def __post_init__(self) -> None:
        self.best: np.ndarray | None = None
        self.objective = float("-inf")
        self.bound = float("inf")
        self.num_solved = 0
        self.said: list[str] = []

    def beats(self, bound: float) -> bool:
        """Whether a bound leaves room above the best schedule."""
        if self.best is None:
            return not np.isneginf(bound)
        return bound > self.objective + OPTIMALITY_TOLERANCE * abs(self.objective)

    def is_settled(self) -> bool:
        """Whether the bound is met, or says that there is no schedule."""
        return not self.beats(self.bound)

    def offer(self, schedule: np.ndarray) -> None:
        """Keep a schedule if it is better than the best."""
        objective = self.problem.objective(schedule)
        if objective > self.objective:
            self.best, self.objective = schedule, objective

    def separate(self, part: np.ndarray) -> None:
        """Solve parts exactly."""
        found = solve_separated(self.problem, part, self.deadline)
        if found is None:
            self.said.append("parts not solved")
            return
        self.said.append(f"every choice of training groups in {int(part.max()) + 1} parts")
        self.offer(found.schedule)
        self.bound = min(self.bound, found.bound)

    def by_worth(self) -> None:
        """Go through training sets by falling dual bound."""
        dual = SetupDual(self.problem, self.rows).lowest()
        self.said.append(f"prices on {len(self.rows.limit)} limits")
        if np.isneginf(dual.bound):
            self.bound = float("-inf")
            return
        solved = greedy_set(self.problem, dual)
        highest = self.solve(solved)
        left = float("-inf")
        for number, candidate in enumerate(sets_by_worth(self.problem, self.rows, dual)):
            left = candidate.bound_of_rest
            stopped = number >= MAX_SETS or self.num_solved >= MAX_SOLVED
            if stopped or time.perf_counter() > self.deadline or not self.beats(left):
                break
            left = float("-inf")
            if not candidate.fits or (candidate.trains == solved).all():
                continue
            if self.beats(candidate.bound):
                highest = max(highest, min(candidate.bound, self.solve(candidate.trains)))
            else:
                highest = max(highest, candidate.bound)
        self.bound = min(self.bound, max(highest, left))
        self.said.append(f"knapsacks of {self.num_solved} training sets")

    def solve(self, trains: np.ndarray) -> float:
        """Solve the knapsacks of a training set; a bound on what it can be worth."""
        self.num_solved += 1
        given = self.problem.given(trains)
        left_s = None
        if np.isfinite(self.deadline):
            left_s = max(1e-3, self.deadline - time.perf_counter())
        solution = solve_dp(given, time_limit_s=left_s)
        if solution.schedule is not None:
            self.offer(self.problem.schedule(trains, solution.schedule))
        return solution.upper_bound
