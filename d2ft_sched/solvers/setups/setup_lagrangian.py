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
from d2ft_sched.solvers.setups.separate import part_choices, part_of_groups, solve_separated
from d2ft_sched.solvers.setups.setup_dual import Dual, SetupDual
from d2ft_sched.solvers.setups.setup_rows import SetupRows, setup_rows
from d2ft_sched.solvers.setups.training_sets import greedy_set, sets_by_worth

MAX_SETS = 5_000
"""Training sets that are looked at."""

MAX_SOLVED_ITEMS = 250_000
"""Items of all knapsacks that are solved for them: a second or two of work."""


def solve_setup_lagrangian(
    problem: SetupProblem, *, time_limit_s: float | None, seed: int
) -> Solution:
    """Prices on every limit bound the optimum; given what trains, the knapsacks are solved exactly.

    Where groups separate into parts, the choices of each that the bound leaves open are solved and
    combined (`separate`). Elsewhere training sets are gone through by falling dual bound, until
    none that is left can beat the best schedule, which is optimal then, or until a limit is met.
    Deterministic.

    Args:
        problem: any.
        time_limit_s: ends the search.
        seed: not used.
    """
    begin = time.perf_counter()
    deadline = float("inf") if time_limit_s is None else begin + time_limit_s
    rows = setup_rows(problem)
    search = _Search(problem, rows, deadline)
    build_s = time.perf_counter() - begin
    if rows.impossible:
        search.bound = float("-inf")
    else:
        search.run()
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

    def run(self) -> None:
        """Find prices, then the training sets that they leave open."""
        dual = SetupDual(self.problem, self.rows).lowest()
        self.bound = dual.bound
        self.said.append(f"prices on {len(self.rows.limit)} limits")
        if not self.is_settled():
            first = greedy_set(self.problem, dual)
            highest = self.solve(first)
            if self.beats(dual.bound) and not self.separate(dual):
                self.by_worth(dual, first, highest)
            if self.best is None and not self.is_settled():
                self.solve(np.zeros(self.problem.num_groups, dtype=bool))
        self.said.append(f"knapsacks of {self.num_solved} training sets")

    def separate(self, dual: Dual) -> bool:
        """Solve and combine the open choices of parts; whether that could be done."""
        part = part_of_groups(self.problem, self.rows)
        if self.problem.problem.shared or self.best is None or not part.max():
            return False
        rounding = OPTIMALITY_TOLERANCE * abs(dual.bound)
        choices = part_choices(dual, part, dual.bound - self.objective + rounding)
        if choices is None:
            return False
        found = solve_separated(self.problem, part, choices, self.deadline)
        if found is None:
            return False
        self.num_solved += len(choices)
        self.said.append(f"up to {len(choices)} choices in each of {int(part.max()) + 1} parts")
        known = self.objective
        self.offer(found.schedule)
        self.bound = min(self.bound, max(known, found.bound))
        return True

    def by_worth(self, dual: Dual, solved: np.ndarray, highest: float) -> None:
        """Go through training sets by falling dual bound.

        Args:
            dual: at the best prices.
            solved: a training set whose knapsacks were solved.
            highest: what it can be worth.
        """
        left = float("-inf")
        for number, candidate in enumerate(sets_by_worth(self.problem, self.rows, dual)):
            left = candidate.bound_of_rest
            num_items = self.num_solved * self.problem.problem.num_items
            stopped = number >= MAX_SETS or num_items >= MAX_SOLVED_ITEMS
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
