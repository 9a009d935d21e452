"""The entry `solve`, its registry, and what a solution may claim."""

import subprocess
import sys

import numpy as np
import pytest

from d2ft_sched import Problem, Solution, Status, register_solver, solve, solver_names
from d2ft_sched.errors import InputError
from d2ft_sched.problem.solution import checked_solution
from d2ft_sched.schedule.operations import NUM_OPERATIONS

SEPARABLE = ("dp", "lagrangian", "mip", "scip", "highs", "cp_sat")


def small_problem() -> Problem:
    rng = np.random.default_rng(3)
    value = np.sort(rng.random((4, 3, NUM_OPERATIONS)), axis=-1)
    cost = np.sort(rng.random((2, 4, 3, NUM_OPERATIONS)), axis=-1)
    value[..., 0] = cost[..., 0] = 0
    return Problem(value, cost, np.array([0, 0, 1, 1]), np.full((2, 2), 1.5))


def made_of(problem: Problem, **changes: object) -> Solution:
    given = {
        "upper_bound": 10.0,
        "status": Status.FEASIBLE,
        "build_s": 0.0,
        "solve_s": 0.0,
        "solver": "x",
        "method": "",
    }
    schedule = np.zeros((problem.num_subnets, problem.num_microbatches), dtype=int)
    return checked_solution(problem, schedule, **(given | changes))


@pytest.mark.parametrize("solver", SEPARABLE)
def test_all_exact_solvers_agree(solver: str) -> None:
    problem = small_problem()
    solution = solve(problem, solver=solver)
    assert solution.status == Status.OPTIMAL
    assert solution.solver == solver
    assert solution.objective == pytest.approx(solve(problem).objective, rel=1e-6)
    assert solution.schedule is not None
    assert solution.schedule.dtype == np.int8
    assert solution.gap <= 1e-6


def test_unknown_solver_option_and_limit_are_refused() -> None:
    problem = small_problem()
    with pytest.raises(InputError, match="solver 'simplex' is unknown; it must be one of dp,"):
        solve(problem, solver="simplex")
    with pytest.raises(InputError, match="solver 'dp' has no option 'gap'; it takes time_limit_s"):
        solve(problem, gap=0.1)
    with pytest.raises(InputError, match="has no option 'backend'"):
        solve(problem, solver="scip", backend="highs")
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="time limit"):
            solve(problem, time_limit_s=limit)
    with pytest.raises(InputError, match="backend 'cplex' is unknown"):
        solve(problem, solver="mip", backend="cplex")


def test_a_solver_of_ones_own_can_be_registered_once() -> None:
    def nothing(problem: Problem, *, time_limit_s: float | None, seed: int) -> Solution:
        return made_of(problem, upper_bound=float("inf"))

    if "nothing" not in solver_names():
        register_solver("nothing", nothing)
    assert solve(small_problem(), solver="nothing").solver == "nothing"
    with pytest.raises(InputError, match="registered already"):
        register_solver("dp", nothing)


def test_a_status_is_never_overstated() -> None:
    problem = small_problem()
    assert made_of(problem, status=Status.OPTIMAL).status == Status.FEASIBLE
    assert made_of(problem, upper_bound=0.0).status == Status.OPTIMAL


def test_an_impossible_claim_of_a_solver_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="beats its bound"):
        made_of(small_problem(), upper_bound=-1.0)
    full = np.full((4, 3), 2)
    with pytest.raises(RuntimeError, match="knapsack 0 spends"):
        checked_solution(
            small_problem(),
            full,
            upper_bound=99.0,
            status=Status.FEASIBLE,
            build_s=0,
            solve_s=0,
            solver="x",
            method="",
        )


def test_importing_the_package_leaves_ortools_alone() -> None:
    code = "import sys, d2ft_sched; sys.exit('ortools' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
