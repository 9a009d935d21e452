"""Solvers side by side on one problem: quality, time, balance and simulated step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.planning.plan_baselines import Baselines, baselines
from analysis.planning.plan_summary import summarize
from analysis.planning.request import Request
from analysis.planning.way_words import way_text
from d2ft_sched.deployment import Deployment
from d2ft_sched.files.counted import counted
from d2ft_sched.plan.planning import plan_from_solution, solve_formulation
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.scores import Scores
from d2ft_sched.problem.solution import Solution, Status
from d2ft_sched.schedule.operations import Operation
from sim.step import simulate_dense, simulate_plan

FEWER = "fewer samples, same compute"
COLUMNS = (
    "solver", "method", "status", "objective", "upper_bound", "gap", "build_s", "solve_s",
    "compute_fraction", "communication_fraction", "predicted_step_s", "workload_cv",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Compared:
    """A solver's answer and the plan made from it; None where it found no schedule."""

    solution: Solution
    plan: Plan | None


def compare_solvers(
    deployment: Deployment,
    scores: Scores,
    budget: Budget,
    solvers: list[str],
    *,
    seed: int = 0,
    time_limit_s: float | None = None,
) -> dict[str, Compared]:
    """The answer of each solver to the same problem, in the order given."""
    formulation = formulate(deployment, scores, budget)
    answers = {}
    for name in solvers:
        solution = solve_formulation(formulation, name, time_limit_s=time_limit_s, seed=seed)
        plan = None
        if solution.schedule is not None:
            plan = plan_from_solution(deployment, budget, solution, seed=seed)
        answers[name] = Compared(solution, plan)
    return answers


def comparison_table(
    request: Request, answers: Mapping[str, Compared], held: Baselines | None = None
) -> pd.DataFrame:
    """One row per solver, and one of dense on fewer samples of the best one's compute, in their own
    best way; `held` is `baselines_of` that one, if known.

    Columns are `COLUMNS`, of which workload_cv is the coefficient of variation of the devices' busy
    seconds, and the two fractions are of the dense run; NaN where there is none.
    """
    rows = [_row(name, answer) for name, answer in answers.items()]
    best = best_answer(answers)
    if best is not None:
        own = next(row for row in rows if row["solver"] == best)
        known = baselines_of(answers[best]) if held is None else held
        rows.append(_fewer_row(request, own, known))
    return pd.DataFrame(rows)


def best_answer(answers: Mapping[str, Compared]) -> str | None:
    """The solver whose plan has the most value; None where none found a schedule."""
    planned = {name: answer for name, answer in answers.items() if answer.plan is not None}
    return max(planned, key=lambda name: planned[name].solution.objective, default=None)


def baselines_of(answer: Compared) -> Baselines:
    """What needs no planner, beside a solver's plan."""
    assert answer.plan is not None
    return baselines(answer.plan, simulate_plan(answer.plan).step_s)


def _row(name: str, answer: Compared) -> dict[str, Any]:
    solution, plan = answer.solution, answer.plan
    row: dict[str, Any] = dict.fromkeys(COLUMNS, np.nan) | {
        "solver": name,
        "method": solution.method,
        "status": solution.status.value,
        "upper_bound": solution.upper_bound if np.isfinite(solution.upper_bound) else np.nan,
        "gap": solution.gap if np.isfinite(solution.gap) else np.nan,
        "build_s": solution.build_s,
        "solve_s": solution.solve_s,
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


def _fewer_row(request: Request, best: dict[str, Any], held: Baselines) -> dict[str, Any]:
    """Dense on as many samples, those of most value, as the best solver's FLOPs suffice for."""
    row = dict.fromkeys(best, np.nan) | {"solver": FEWER, "build_s": 0.0, "solve_s": 0.0}
    if held.fewer is None:
        return row | {"method": "no dense way fits", "status": Status.INFEASIBLE.value}
    number, total = sum(held.fewer.samples), held.search.steps.num_samples
    prediction = simulate_dense(held.fewer)
    return row | {
        "method": f"{number} of {counted(total, 'sample')} dense, {way_text(held.fewer)}",
        "status": Status.FEASIBLE.value,
        "objective": value_of_samples(request, number),
        "compute_fraction": number / total,
        "predicted_step_s": prediction.step_s,
        "workload_cv": prediction.workload_cv,
    }


def value_of_samples(request: Request, number: int) -> float:
    """The most value that so many samples have dense, each an equal part of its micro-batch's."""
    value = request.scores.values()[..., Operation.FULL].sum(axis=0)
    samples = request.workload.samples
    order = np.argsort(-value / samples, kind="stable")
    before = np.cumsum(samples[order]) - samples[order]
    taken = np.clip(number - before, 0, samples[order])
    return float((value[order] / samples[order]) @ taken)
