"""Solvers side by side on one problem: quality, time, balance and simulated step."""

import numpy as np
import pandas as pd

from analysis.plan_summary import summarize
from analysis.request import Request
from d2ft_sched.formulate import formulate
from d2ft_sched.placement import Placement
from d2ft_sched.plan import Plan
from d2ft_sched.planning import plan_from_solution, solve_formulation
from sim.step import simulate_plan


def compare_solvers(
    request: Request,
    placement: Placement,
    solvers: list[str],
    *,
    num_waves: int = 1,
    seed: int = 0,
    time_limit_s: float | None = None,
) -> dict[str, Plan]:
    """The plan of each solver on the same problem, in the order given."""
    formulation = formulate(
        request.workload, request.cluster, placement, request.scores, request.budget
    )
    return {
        name: plan_from_solution(
            request.workload,
            request.cluster,
            placement,
            request.budget,
            solve_formulation(formulation, name, time_limit_s=time_limit_s, seed=seed),
            num_waves=num_waves,
            seed=seed,
        )
        for name in solvers
    }


def comparison_table(plans: dict[str, Plan]) -> pd.DataFrame:
    """One row per solver.

    Columns: solver, method, status, objective, upper_bound, gap, build_s, solve_s,
    compute_fraction, communication_fraction, predicted_step_s, workload_cv (coefficient of
    variation of the devices' busy seconds).
    """
    rows = []
    for name, plan in plans.items():
        summary, prediction = summarize(plan), simulate_plan(plan)
        busy = prediction.device_busy_s[prediction.device_busy_s > 0]
        rows.append(
            {
                "solver": name,
                "method": plan.solver.method,
                "status": plan.solver.status,
                "objective": plan.solver.objective,
                "upper_bound": plan.solver.upper_bound,
                "gap": plan.solver.gap,
                "build_s": plan.solver.build_s,
                "solve_s": plan.solver.solve_s,
                "compute_fraction": summary.compute_fraction,
                "communication_fraction": summary.communication_fraction,
                "predicted_step_s": prediction.step_s,
                "workload_cv": float(np.std(busy) / np.mean(busy)),
            }
        )
    return pd.DataFrame(rows)
