"""Solvers side by side on one problem: quality, time, balance and simulated step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.planning.plan_summary import summarize
from analysis.planning.request import Request
from analysis.simulating.dense_on_fewer import fewer_microbatches
from d2ft_sched.costs.exchange import plan_exchange
from d2ft_sched.plan.plan import Plan
from d2ft_sched.plan.planning import plan_from_solution, solve_formulation
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.solution import Solution, Status
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.step import simulate_plan, simulate_step

FEWER = "fewer_microbatches at equal step"


@dataclass(frozen=True, eq=False)
class Compared:
    """A solver's answer and the plan made from it; None where it found no schedule."""

    solution: Solution
    plan: Plan | None


def compare_solvers(
    request: Request,
    placement: Placement,
    solvers: list[str],
    *,
    num_waves: int = 1,
    seed: int = 0,
    time_limit_s: float | None = None,
) -> dict[str, Compared]:
    """The answer of each solver to the same problem, in the order given."""
    formulation = formulate(
        request.workload,
        request.cluster,
        placement,
        request.scores,
        request.budget,
        num_waves=num_waves,
    )
    answers = {}
    for name in solvers:
        solution = solve_formulation(formulation, name, time_limit_s=time_limit_s, seed=seed)
        plan = None
        if solution.schedule is not None:
            plan = plan_from_solution(
                request.workload,
                request.cluster,
                placement,
                request.budget,
                solution,
                num_waves=num_waves,
                seed=seed,
            )
        answers[name] = Compared(solution, plan)
    return answers


def comparison_table(
    request: Request, placement: Placement, answers: Mapping[str, Compared]
) -> pd.DataFrame:
    """One row per solver, and one of dense on fewer micro-batches at the step time of the best.

    Columns: solver, method, status, objective, upper_bound, gap, build_s, solve_s,
    compute_fraction, communication_fraction, predicted_step_s, workload_cv (coefficient of
    variation of the devices' busy seconds); NaN where there is none.
    """
    rows = [_row(name, answer) for name, answer in answers.items()]
    best = max(rows, key=lambda row: -np.inf if np.isnan(row["objective"]) else row["objective"])
    if best["predicted_step_s"] > 0:
        rows.append(_fewer_row(request, placement, best))
    return pd.DataFrame(rows)


def _row(name: str, answer: Compared) -> dict[str, Any]:
    solution, plan = answer.solution, answer.plan
    row: dict[str, Any] = {
        "solver": name,
        "method": solution.method,
        "status": solution.status.value,
        "objective": np.nan,
        "upper_bound": solution.upper_bound if np.isfinite(solution.upper_bound) else np.nan,
        "gap": solution.gap if np.isfinite(solution.gap) else np.nan,
        "build_s": solution.build_s,
        "solve_s": solution.solve_s,
        "compute_fraction": np.nan,
        "communication_fraction": np.nan,
        "predicted_step_s": np.nan,
        "workload_cv": np.nan,
    }
    if plan is None:
        return row
    summary, prediction = summarize(plan), simulate_plan(plan)
    return row | {
        "objective": solution.objective,
        "compute_fraction": summary.compute_fraction,
        "communication_fraction": summary.communication_fraction
        if summary.dense_exchange_bytes
        else np.nan,
        "predicted_step_s": prediction.step_s,
        "workload_cv": prediction.workload_cv,
    }


def _fewer_row(request: Request, placement: Placement, best: dict[str, Any]) -> dict[str, Any]:
    """Dense on as many whole micro-batches as the best solver's step time holds."""
    workload = request.workload
    row = dict.fromkeys(best, np.nan) | {"solver": FEWER, "build_s": 0.0, "solve_s": 0.0}
    fewer = fewer_microbatches(
        workload, request.cluster, placement, request.scores, best["predicted_step_s"]
    )
    if fewer is None:
        method = f"not one micro-batch is as fast as {best['solver']}"
        return row | {"method": method, "status": Status.TIME_LIMIT.value}
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    kept = np.full_like(dense, Operation.SHORTCUT)
    kept[:, fewer.kept] = Operation.FULL
    kept_bytes, dense_bytes = (
        plan_exchange(workload, placement, schedule).total_bytes() for schedule in (kept, dense)
    )
    dense_value = request.scores.values()[..., Operation.FULL].sum()
    everything = simulate_step(workload, request.cluster, placement, dense)
    return row | {
        "method": f"{len(fewer.kept)} of {workload.num_microbatches} micro-batches dense, at most "
        f"the step of {best['solver']}",
        "status": Status.FEASIBLE.value,
        "objective": fewer.retained_score * float(dense_value),
        "compute_fraction": fewer.prediction.flops / everything.flops,
        "communication_fraction": kept_bytes / dense_bytes if dense_bytes else np.nan,
        "predicted_step_s": fewer.prediction.step_s,
        "workload_cv": fewer.prediction.workload_cv,
    }
