"""The whole way from a question to a plan."""

from dataclasses import replace
from typing import Any

import numpy as np

from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError
from d2ft_sched.files.provenance import provenance
from d2ft_sched.plan.solved_plan import Plan, SolverRecord
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import Formulation, formulate
from d2ft_sched.problem.scores import Scores
from d2ft_sched.problem.solution import Solution
from d2ft_sched.schedule.schedule import schedule_to_rows
from d2ft_sched.solvers.registry import required_options, solve, takes_option


def make_plan(
    deployment: Deployment,
    scores: Scores,
    budget: Budget,
    *,
    solver: str = "dp",
    seed: int = 0,
    time_limit_s: float | None = None,
) -> Plan:
    """Formulate, solve and record.

    Args:
        deployment: one replica.
        scores: contribution of every subnet to every micro-batch.
        budget: fractions of the dense run.
        solver: a name that `solve` knows.
        seed: for solvers with random choices.
        time_limit_s: for solvers that can stop early.

    Raises:
        InputError: an input does not fit, or no schedule does.
    """
    formulation = formulate(deployment, scores, budget)
    solution = solve_formulation(formulation, solver, time_limit_s=time_limit_s, seed=seed)
    return plan_from_solution(deployment, budget, solution, seed=seed)


KNOWN_OPTIONS = ("block",)
"""Of solvers, those that a formulation brings along."""


def check_solver(solver: str) -> None:
    """Refuse a solver that cannot make a plan, before anything is searched.

    Raises:
        InputError: there is none of that name, or it needs an option that no formulation has.
    """
    for option in required_options(solver):
        if option not in KNOWN_OPTIONS:
            raise InputError(
                f"solver {solver!r} needs the option {option!r}, which no plan brings along; take "
                f"another, such as dp"
            )


def solve_formulation(
    formulation: Formulation,
    solver: str = "dp",
    *,
    time_limit_s: float | None = None,
    seed: int = 0,
    max_nodes: int | None = None,
) -> Solution:
    """`solve` for a formulation; the schedule is one of all subnets.

    Args:
        formulation: of a mini-batch.
        solver, time_limit_s, seed: as for `solve`.
        max_nodes: of solvers that branch and bound; None for their own limit.
    """
    check_solver(solver)
    known = dict(zip(KNOWN_OPTIONS, (formulation.row_block,), strict=True))
    options: dict[str, Any] = {name: known[name] for name in required_options(solver)}
    if max_nodes is not None and takes_option(solver, "max_nodes"):
        options["max_nodes"] = max_nodes
    solution = solve(
        formulation.problem, solver=solver, time_limit_s=time_limit_s, seed=seed, **options
    )
    if solution.schedule is None:
        return solution
    return replace(solution, schedule=formulation.schedule(solution.schedule))


def plan_from_solution(
    deployment: Deployment, budget: Budget, solution: Solution, *, seed: int = 0
) -> Plan:
    """Wrap a solver's answer; refuses one without a schedule."""
    if solution.schedule is None:
        or_less = ", a smaller coverage" if budget.coverage else ""
        raise InputError(
            f"solver {solution.solver!r} found no schedule: {solution.status.value}; "
            f"give it a larger budget{or_less} or more time"
        )
    return Plan(
        workload=deployment.workload,
        cluster=deployment.cluster,
        replicas=deployment.replicas,
        budget=budget,
        solver=SolverRecord(
            name=solution.solver,
            method=solution.method,
            status=solution.status.value,
            objective=solution.objective,
            upper_bound=solution.upper_bound if np.isfinite(solution.upper_bound) else None,
            build_s=solution.build_s,
            solve_s=solution.solve_s,
        ),
        schedule_rows=tuple(schedule_to_rows(solution.schedule)),
        provenance=provenance(seed),
    )
