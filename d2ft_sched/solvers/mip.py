"""The whole problem through OR-Tools (MathOpt): SCIP, HiGHS or CP-SAT, for comparison."""

import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.solution import (
    Checkable,
    Solution,
    Status,
    checked_solution,
    no_schedule,
)
from d2ft_sched.schedule.operations import NUM_OPERATIONS
from d2ft_sched.solvers.gains import on_gains
from d2ft_sched.solvers.mip_arrays import MipArrays, mip_arrays
from d2ft_sched.solvers.mip_grid import as_fractions, relaxed, restricted
from d2ft_sched.solvers.quiet_stdout import quiet_stdout

if TYPE_CHECKING:
    from ortools.math_opt import model_pb2

BACKENDS = {"scip": "GSCIP", "highs": "HIGHS", "cp_sat": "CP_SAT"}
"""Name of each backend and of its MathOpt solver type."""

MIP_TOLERANCE = 1e-6
"""Relative gap up to which a schedule of these solvers counts as optimal."""

ROUNDING = 1e-12
"""Relative error of a bound that is taken back from the grid in floating point."""

BOUND_ERROR = 1e-9
"""What a bound of SCIP or HiGHS may be too low, for each item, over the objective's largest
coefficient: their smallest tolerances."""

NUM_SEEDS = 2**31
"""Seeds that the backends tell apart."""


CP_SAT_NODE_S = 3e-5
"""Deterministic time of CP-SAT that is taken for a node, for each variable."""


@dataclass(frozen=True)
class Limits:
    """When a backend ends.

    Attributes:
        time_s: seconds of the clock; None for no limit.
        max_nodes: see `solve_mip`; None for no limit.
    """

    time_s: float | None = None
    max_nodes: int | None = None

    def after(self, spent_s: float, least_s: float) -> "Limits":
        """With what is left of the time, at least so many seconds."""
        if self.time_s is None:
            return self
        return replace(self, time_s=max(least_s, self.time_s - spent_s))


@dataclass(frozen=True)
class _Outcome:
    """What a backend said of one programme; `x` is None without a solution."""

    status: Status
    x: np.ndarray | None
    bound: float
    build_s: float
    solve_s: float


@on_gains
def solve_mip(
    problem: Problem,
    *,
    time_limit_s: float | None = None,
    seed: int = 0,
    backend: str = "scip",
    start: np.ndarray | None = None,
    by_knapsack: bool = False,
    max_nodes: int | None = None,
) -> Solution:
    """Solve by branch and bound, with an optimality tolerance of 1e-6.

    The backend gets the problem rounded to a grid (`mip_grid`), so that its bound holds; whether
    the schedule is optimal is judged by that bound. Where values or costs range over more decades
    than the grid, optima are FEASIBLE.

    Args:
        problem: any.
        time_limit_s: for the whole solve.
        seed: of the backend.
        backend: a key of `BACKENDS`; SCIP is the fastest of them on these problems.
        start: a schedule to begin with, such as that of the DP.
        by_knapsack: one programme per knapsack instead of one for all; without shared constraints.
        max_nodes: of branch and bound, of each programme, after which the best so far is returned:
            the same on every machine, however busy. CP-SAT, which counts none, gets a share of its
            deterministic time for each, and one thread.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} is unknown; it must be one of {', '.join(BACKENDS)}")
    if by_knapsack and problem.shared:
        raise InputError("shared constraints couple the knapsacks: by_knapsack must be False")
    how = "knapsack by knapsack" if by_knapsack else "one model"
    method = f"{backend} through OR-Tools MathOpt, {how}" + (
        ", warm start" if start is not None else ""
    )
    limits = Limits(time_limit_s, max_nodes)
    if not by_knapsack:
        return _solve_whole(problem, start, backend, limits, seed, method)
    return _solve_by_knapsack(problem, start, backend, limits, seed, method)


def _solve_whole(
    problem: Problem,
    start: np.ndarray | None,
    backend: str,
    limits: Limits,
    seed: int,
    method: str,
) -> Solution:
    begin = time.perf_counter()
    arrays = mip_arrays(problem)
    build_s = time.perf_counter() - begin
    return solve_arrays(problem, arrays, start, backend, limits, seed, method, build_s)


def solve_arrays(
    problem: Checkable,
    arrays: MipArrays,
    start: np.ndarray | None,
    backend: str,
    limits: Limits,
    seed: int,
    method: str,
    build_s: float,
) -> Solution:
    """Hand the programme of a problem to a backend, as a relaxation; where the schedule that comes
    back breaks a capacity of the problem, as a restriction, too.

    Args:
        problem: what the schedule and its status are judged by.
        arrays: its programme.
        start: a schedule to begin with, or None.
        backend: a key of `BACKENDS`.
        limits: for each of the two.
        seed: of the backend.
        method: what is said of it.
        build_s: seconds that the programme took.
    """
    outcome = _run(relaxed(arrays), start, backend, limits, seed)
    status, bound = outcome.status, min(outcome.bound, arrays.largest)
    build_s, solve_s = build_s + outcome.build_s, outcome.solve_s
    shape = (problem.value.shape[0], problem.value.shape[1])
    schedule = None if outcome.x is None else arrays.schedule(outcome.x, shape)
    if schedule is not None and problem.violation(schedule):
        again = _run(restricted(arrays), start, backend, limits.after(solve_s, 1.0), seed)
        build_s, solve_s = build_s + again.build_s, solve_s + again.solve_s
        schedule = None if again.x is None else arrays.schedule(again.x, shape)
        status = Status.FEASIBLE if again.status == Status.OPTIMAL else Status.TIME_LIMIT
        method += "; solved again with a margin, since the first solution went over a capacity"
    if schedule is None:
        return no_schedule(
            status,
            upper_bound=bound,
            build_s=build_s,
            solve_s=solve_s,
            solver=backend,
            method=method,
        )
    objective = problem.objective(schedule)
    if objective - ROUNDING * abs(objective) <= bound < objective:
        bound = objective
    if bound < objective:  # within the backend's tolerances, or without them
        bound = arrays.largest
    return checked_solution(
        problem,
        schedule,
        upper_bound=bound,
        status=status,
        build_s=build_s,
        solve_s=solve_s,
        solver=backend,
        method=method,
        tolerance=MIP_TOLERANCE,
    )


def _solve_by_knapsack(
    problem: Problem,
    start: np.ndarray | None,
    backend: str,
    limits: Limits,
    seed: int,
    method: str,
) -> Solution:
    knapsack = problem.knapsack.ravel()
    value = problem.value.reshape(-1, 1, NUM_OPERATIONS)
    cost = problem.cost.reshape(problem.num_resources, problem.num_items, 1, NUM_OPERATIONS)
    schedule = np.zeros(problem.num_items, dtype=np.int8)
    order = np.argsort(knapsack, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(knapsack, minlength=problem.num_knapsacks))[:-1])
    build_s = solve_s = bound = 0.0
    worst = Status.OPTIMAL
    missing = False
    for k, items in enumerate(parts):
        if not len(items):
            continue
        part = Problem(
            value=value[items],
            cost=cost[:, items],
            knapsack=np.zeros(len(items), dtype=np.int64),
            capacity=problem.capacity[k : k + 1],
        )
        left = limits.after(build_s + solve_s, 1e-3)
        part_start = None if start is None else start.reshape(-1, 1)[items]
        solution = _solve_whole(part, part_start, backend, left, seed, method)
        build_s, solve_s = build_s + solution.build_s, solve_s + solution.solve_s
        bound += solution.upper_bound
        if solution.status == Status.INFEASIBLE:
            worst, missing = Status.INFEASIBLE, True
            break
        if solution.status != Status.OPTIMAL and worst != Status.TIME_LIMIT:
            worst = solution.status
        if solution.schedule is None:
            missing = True
        else:
            schedule[items] = solution.schedule[:, 0]
    if missing:
        return no_schedule(
            worst,
            upper_bound=bound,
            build_s=build_s,
            solve_s=solve_s,
            solver=backend,
            method=method,
        )
    return checked_solution(
        problem,
        schedule.reshape(problem.num_subnets, problem.num_microbatches),
        upper_bound=bound,
        status=worst,
        build_s=build_s,
        solve_s=solve_s,
        solver=backend,
        method=method,
        tolerance=MIP_TOLERANCE,
    )


def _run(
    arrays: MipArrays,
    start: np.ndarray | None,
    backend: str,
    limits: Limits,
    seed: int,
) -> _Outcome:
    """Hand a programme on the grid to a backend.

    Raises:
        RuntimeError: the backend ended in a way that is neither a solution nor a limit.
    """
    from ortools.math_opt.python import mathopt

    begin = time.perf_counter()
    if backend != "cp_sat":
        arrays = as_fractions(arrays)
    model = mathopt.Model.from_model_proto(_model_proto(arrays))
    hints = []
    if start is not None:
        values = zip(model.variables(), arrays.variables(start).tolist(), strict=True)
        hints = [mathopt.SolutionHint(variable_values=dict(values))]
    parameters = mathopt.SolveParameters(
        time_limit=None if limits.time_s is None else timedelta(seconds=limits.time_s),
        node_limit=limits.max_nodes if backend != "cp_sat" else None,
        random_seed=seed % NUM_SEEDS,
        relative_gap_tolerance=0.0,
        absolute_gap_tolerance=0.0,
    )
    if backend == "cp_sat" and limits.max_nodes is not None:
        node_s = CP_SAT_NODE_S * arrays.num_variables
        parameters.cp_sat.max_deterministic_time = node_s * limits.max_nodes
        parameters.threads = 1
    if backend == "highs":
        for kind in ("mip", "primal", "dual"):
            parameters.highs.double_options[f"{kind}_feasibility_tolerance"] = 1e-9
    if backend == "scip":
        parameters.gscip.real_params["numerics/feastol"] = 1e-9
    with quiet_stdout():
        result = mathopt.solve(
            model,
            mathopt.SolverType[BACKENDS[backend]],
            params=parameters,
            model_params=mathopt.ModelSolveParameters(solution_hints=hints),
        )
    solve_s = result.solve_stats.solve_time.total_seconds()
    build_s = time.perf_counter() - begin - solve_s
    reason = result.termination.reason
    x = None
    if result.has_primal_feasible_solution():
        x = np.array(result.variable_values(list(model.variables())))
    bound = arrays.offset + arrays.scale * result.termination.objective_bounds.dual_bound
    if backend != "cp_sat":
        bound += arrays.scale * BOUND_ERROR * arrays.num_variables
    if reason == mathopt.TerminationReason.OPTIMAL:
        return _Outcome(Status.OPTIMAL, x, bound, build_s, solve_s)
    if reason in (
        mathopt.TerminationReason.INFEASIBLE,
        mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED,
    ):
        return _Outcome(Status.INFEASIBLE, None, float("-inf"), build_s, solve_s)
    if reason in (
        mathopt.TerminationReason.FEASIBLE,
        mathopt.TerminationReason.NO_SOLUTION_FOUND,
    ):
        return _Outcome(Status.TIME_LIMIT, x, bound, build_s, solve_s)
    raise RuntimeError(f"{backend} ended with {result.termination}")


def _model_proto(arrays: MipArrays) -> "model_pb2.ModelProto":
    from ortools.math_opt import model_pb2

    proto = model_pb2.ModelProto()
    n = arrays.num_variables
    proto.variables.ids.extend(range(n))
    proto.variables.lower_bounds.extend([0.0] * n)
    proto.variables.upper_bounds.extend(arrays.possible.astype(float).tolist())
    proto.variables.integers.extend([True] * n)
    proto.objective.maximize = True
    nonzero = np.flatnonzero(arrays.objective)
    proto.objective.linear_coefficients.ids.extend(nonzero.tolist())
    proto.objective.linear_coefficients.values.extend(arrays.objective[nonzero].tolist())
    proto.linear_constraints.ids.extend(range(arrays.num_rows))
    proto.linear_constraints.lower_bounds.extend([float("-inf")] * arrays.num_rows)
    proto.linear_constraints.upper_bounds.extend(arrays.upper.tolist())
    matrix = proto.linear_constraint_matrix
    matrix.row_ids.extend(arrays.row.tolist())
    matrix.column_ids.extend(arrays.column.tolist())
    matrix.coefficients.extend(arrays.coefficient.tolist())
    return proto
