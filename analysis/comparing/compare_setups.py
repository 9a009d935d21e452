"""Solvers side by side on which blocks train and what each subnet does, replicas given."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.planning.request import Request
from d2ft_sched.problem.formulate_setups import formulate_setups
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.solvers.setups.solve import SOLVERS, solve_setups
from sim.step import simulate_step
from sim.ways.redeal import redealt_scores
from sim.ways.search import WaySearch
from sim.ways.way import Way


def setups_way(search: WaySearch) -> Way | None:
    """The fastest dense way of several replicas that fits; None where there is none."""
    return next((way for way in search.ways if way.fits and len(way.replicas) > 1), None)


def compare_setups(
    request: Request,
    way: Way,
    solvers: Sequence[str],
    *,
    seed: int = 0,
    time_limit_s: float | None = None,
) -> pd.DataFrame:
    """One row for each of the solvers that knows setups.

    Columns: solver, method, status, objective, upper_bound, gap, build_s, solve_s, num_training
    (blocks), num_rest (operations), gradient_fraction (of the subnets' gradient bytes),
    predicted_step_s; NaN where there is none.

    Args:
        request: scores and budget; its mini-batch is dealt as the way says.
        way: of several replicas.
        solvers: names, of which those in `d2ft_sched.solvers.setups.solve.SOLVERS` are taken.
        seed, time_limit_s: as for `solve_setups`.
    """
    dealt = redealt_scores(
        request.scores, request.workload.microbatch_samples, way.workload.microbatch_samples
    )
    problem = formulate_setups(way, dealt, request.budget)
    rows: list[dict[str, Any]] = []
    for name in (name for name in solvers if name in SOLVERS):
        found = solve_setups(problem, solver=name, time_limit_s=time_limit_s, seed=seed)
        row: dict[str, Any] = {
            "solver": name,
            "method": found.method,
            "status": found.status.value,
            "objective": np.nan,
            "upper_bound": found.upper_bound if np.isfinite(found.upper_bound) else np.nan,
            "gap": found.gap if np.isfinite(found.gap) else np.nan,
            "build_s": found.build_s,
            "solve_s": found.solve_s,
            "num_training": np.nan,
            "num_rest": np.nan,
            "gradient_fraction": np.nan,
            "predicted_step_s": np.nan,
        }
        if found.schedule is not None:
            trains = problem.trains(found.schedule)
            spent = (problem.group_setup_cost @ trains)[0]
            step = simulate_step(way, found.schedule)
            row |= {
                "objective": found.objective,
                "num_training": int(trains.sum()),
                "num_rest": int((found.schedule == Operation.REST).sum()),
                "gradient_fraction": float(spent / problem.setup_cost.sum()),
                "predicted_step_s": step.step_s,
            }
        rows.append(row)
    return pd.DataFrame(rows)
