"""A problem with setups as one model for OR-Tools (MathOpt)."""

import time

from d2ft_sched.problem.setups import SetupProblem
from d2ft_sched.problem.solution import Solution
from d2ft_sched.solvers.mip import Limits, solve_arrays
from d2ft_sched.solvers.setups.setup_arrays import setup_arrays
from d2ft_sched.solvers.setups.setup_rows import setup_rows


def solve_setup_mip(
    problem: SetupProblem, *, time_limit_s: float | None, seed: int, backend: str
) -> Solution:
    """Solve by branch and bound over operations and groups, as `solve_mip` does without setups."""
    begin = time.perf_counter()
    arrays = setup_arrays(problem, setup_rows(problem))
    build_s = time.perf_counter() - begin
    method = f"{backend} through OR-Tools MathOpt, one model with setup variables"
    limits = Limits(time_limit_s)
    return solve_arrays(problem, arrays, None, backend, limits, seed, method, build_s)
