"""`solve_setups`: one entry for problems with setups."""

import time
from dataclasses import replace
from math import fsum

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.seeds import check_seed
from d2ft_sched.problem.setups import SetupProblem
from d2ft_sched.problem.solution import Solution, Status, checked_solution
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.solvers.gains import in_values
from d2ft_sched.solvers.mip import BACKENDS
from d2ft_sched.solvers.registry import solve
from d2ft_sched.solvers.setups.setup_lagrangian import solve_setup_lagrangian
from d2ft_sched.solvers.setups.setup_mip import solve_setup_mip

SOLVERS = ("lagrangian", "mip", *BACKENDS)
"""Names that `solve_setups` knows; "mip" is SCIP."""


def solve_setups(
    problem: SetupProblem,
    *,
    solver: str = "lagrangian",
    time_limit_s: float | None = None,
    seed: int = 0,
) -> Solution:
    """Choose which groups train and every operation.

    Args:
        problem: what to solve.
        solver: one of `SOLVERS`.
        time_limit_s: seconds after which the solver returns the best it has; None for no limit.
        seed: of the OR-Tools backends; the other solver is deterministic.

    Returns:
        The solution; its schedule, with REST in the groups that rest, was checked against the
        problem.

    Raises:
        InputError: unknown solver, or a limit or seed out of range.
    """
    if solver not in SOLVERS:
        raise InputError(f"solver {solver!r} is unknown; it must be one of {', '.join(SOLVERS)}")
    _check_limit(time_limit_s)
    check_seed(seed)
    base = problem.problem.value[..., Operation.SHORTCUT]
    gains = _less(problem, base) if base.any() else problem
    if solver == "lagrangian":
        solution = solve_setup_lagrangian(gains, time_limit_s=time_limit_s, seed=seed)
    else:
        backend = "scip" if solver == "mip" else solver
        solution = solve_setup_mip(gains, time_limit_s=time_limit_s, seed=seed, backend=backend)
    solution = replace(solution, solver=solver)
    if solution.schedule is None:
        return replace(solution, upper_bound=solution.upper_bound + fsum(base.ravel()))
    everything = np.ones((base.size, len(Operation)), dtype=bool)
    return in_values(problem, gains, solution, everything)


def solve_given_groups(
    problem: SetupProblem, trains: np.ndarray, *, time_limit_s: float | None = None
) -> Solution:
    """The best operations where it is settled what trains: drawn, or in turns.

    Args:
        problem: what to solve.
        trains: from `d2ft_sched.problem.resting`, bool ``[num_groups]``.
        time_limit_s: seconds after which the solver returns the best it has; None for no limit.

    Returns:
        The solution. Its bound is inf, for other groups might be worth more.

    Raises:
        InputError: the groups are not so many, or their setups break a capacity.
    """
    _check_limit(time_limit_s)
    trains = np.asarray(trains, dtype=bool)
    if trains.shape != (problem.num_groups,):
        raise InputError(f"trains has shape {list(trains.shape)}; it must be {problem.num_groups}")
    if not problem.fits(trains):
        raise InputError(f"the setups of {int(trains.sum())} groups that train break a capacity")
    begin = time.perf_counter()
    given = problem.given(trains)
    build_s = time.perf_counter() - begin
    solution = solve(given, time_limit_s=time_limit_s)
    if solution.schedule is None:
        return solution
    return checked_solution(
        problem,
        problem.schedule(trains, solution.schedule),
        upper_bound=float("inf"),
        status=Status.FEASIBLE,
        build_s=build_s,
        solve_s=solution.solve_s,
        solver=solution.solver,
        method=f"training groups given; {solution.method}",
    )


def _check_limit(time_limit_s: float | None) -> None:
    if time_limit_s is not None and not time_limit_s > 0:
        raise InputError(f"time limit is {time_limit_s} s; it must be above 0, or None")


def _less(problem: SetupProblem, base: np.ndarray) -> SetupProblem:
    """With values as gains over SHORTCUT, so that tolerances are relative to what is at stake."""
    value = problem.problem.value - base[..., None]
    inner = replace(problem.problem, value=value)
    return replace(problem, problem=inner, rest_value=problem.rest_value - base)
