"""One setting placed, one point solved and simulated: the work of a sweep's processes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.console.output import outside_calibration
from analysis.planning.placing import place
from analysis.planning.plan_baselines import fitting_dense
from analysis.planning.plan_request import is_better_aligned
from analysis.planning.plan_summary import summarize
from analysis.planning.way_words import way_text
from analysis.sweeping.sweep_grid import Point, Setting
from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError
from d2ft_sched.plan.planning import plan_from_solution, solve_formulation
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.solution import Solution
from d2ft_sched.schedule.operations import Operation
from sim.prediction import Prediction
from sim.questions.cost import step_cost
from sim.step import simulate_dense, simulate_plan
from sim.ways.fewer import fewest_beside, samples_for
from sim.ways.search import WaySearch, search_ways

REFUSED = "REFUSED"
"""Status of a point that could not be put to a solver; its note says why."""

INPUTS = (
    "cluster", "num_devices", "bandwidth_scale", "narrowest_link_bytes_per_s", "compute_scale",
    "model", "heads_per_subnet", "num_subnets", "num_microbatches", "minibatch_samples",
    "lora_rank", "element_bytes", "num_waves", "placement", "budget_compute_fraction",
    "budget_communication_fraction", "budget_memory_fraction", "solver", "seed",
)  # fmt: skip
OUTCOMES = (
    "status", "note", "objective", "upper_bound", "gap_fraction", "retained_score_fraction",
    "build_s", "solve_s", "flops", "compute_fraction", "exchange_bytes", "dense_exchange_bytes",
    "communication_fraction",
    "predicted_step_s", "best_dense_way", "predicted_dense_step_s", "step_fraction",
    "fewer_samples", "fewer_samples_way", "predicted_fewer_samples_step_s",
    "predicted_placed_dense_step_s", "predicted_exchange_wait_s",
    "predicted_peak_memory_bytes", "peak_memory_fraction", "num_devices_out_of_memory",
    "num_devices_used", "workload_cv", "predicted_energy_j", "predicted_price",
)  # fmt: skip
COLUMNS = INPUTS + OUTCOMES
"""Columns of a sweep's table. Fractions are of the dense run: of the budget's resources (inputs);
of FLOPs with the trunk, bytes of dispatch and combine, the step and the fullest device's memory
(outcomes); empty where dense spends nothing. The dense step and its memory are those of the best
dense way, bytes those of dense placed as the plan is, whose step is "placed dense". Fewer samples:
those that the plan's FLOPs suffice for, dense, in their own best way. Exchange wait: seconds in
which messages move and no device computes."""


@dataclass(frozen=True, eq=False)
class PlacedSetting:
    """A setting with its placement, the dense step on it and all ways; or why there is none."""

    setting: Setting
    deployment: Deployment | None = None
    dense_step_s: float = np.nan
    dense_flops: float = np.nan
    search: WaySearch | None = None
    dense_objective: float = np.nan
    note: str = ""
    warnings: tuple[str, ...] = ()


def place_setting(setting: Setting) -> PlacedSetting:
    """Place a setting and simulate its dense step."""
    workload, common = setting.workload, setting.common
    with outside_calibration() as warned:
        try:
            placed = place(common.placement, workload, setting.cluster, common.num_waves)
        except InputError as error:
            return PlacedSetting(setting, note=str(error))
        deployment = placed.deployments[0]
        search = search_ways(workload, setting.cluster)
        dense = simulate_dense(deployment)
    return PlacedSetting(
        setting,
        deployment,
        dense.step_s,
        dense.flops,
        search,
        float(setting.scores.values()[..., Operation.FULL].sum()),
        warnings=tuple(warned),
    )


def solve_points(placed: PlacedSetting, points: Sequence[Point]) -> list[dict[str, Any]]:
    """A row per point of this setting: its key and `COLUMNS`, None where there is nothing."""
    empty = dict.fromkeys(COLUMNS)
    return [
        {
            "key": point.key,
            **empty,
            **_inputs(placed.setting, point.budget, point.solver),
            **_outcome(placed, point.budget, point.solver),
        }
        for point in points
    ]


def _inputs(setting: Setting, budget: Budget, solver: str) -> dict[str, Any]:
    workload, cluster, common = setting.workload, setting.cluster, setting.common
    rates = [link.bandwidth_bytes_per_s for link in cluster.links]
    return {
        "cluster": cluster.name,
        "num_devices": len(cluster.devices),
        "bandwidth_scale": setting.bandwidth_scale,
        "narrowest_link_bytes_per_s": min(rates, default=None),
        "compute_scale": setting.compute_scale,
        "model": workload.shape.name,
        "heads_per_subnet": setting.heads_per_subnet,
        "num_subnets": workload.num_subnets,
        "num_microbatches": workload.num_microbatches,
        "minibatch_samples": common.minibatch_samples,
        "lora_rank": common.lora.rank if common.lora else None,
        "element_bytes": common.element_bytes,
        "num_waves": common.num_waves,
        "placement": common.placement.value,
        "budget_compute_fraction": budget.compute,
        "budget_communication_fraction": budget.communication,
        "budget_memory_fraction": budget.memory,
        "solver": solver,
        "seed": common.seed,
    }


def _outcome(placed: PlacedSetting, budget: Budget, solver: str) -> dict[str, Any]:
    setting, deployment = placed.setting, placed.deployment
    if deployment is None:
        return {"status": REFUSED, "note": placed.note}
    common = setting.common
    aligned = is_better_aligned(budget, deployment)
    limits = replace(budget, patterns=1 if aligned else None)
    try:
        formulation = formulate(deployment, setting.scores, limits)
        solution = solve_formulation(
            formulation, solver, time_limit_s=common.time_limit_s, seed=common.seed
        )
    except InputError as error:
        return {"status": REFUSED, "note": str(error)}
    outcome = _of_solution(solution) | {"predicted_placed_dense_step_s": placed.dense_step_s}
    if solution.schedule is None:
        return outcome | {"note": solution.method}
    plan = plan_from_solution(deployment, limits, solution, seed=common.seed)
    summary, prediction = summarize(plan), simulate_plan(plan)
    peak = float(prediction.peak_memory_bytes.max())
    return {
        **outcome,
        "objective": solution.objective,
        "retained_score_fraction": solution.objective / placed.dense_objective,
        "flops": summary.flops,
        "compute_fraction": summary.compute_fraction,
        "exchange_bytes": summary.exchange_bytes,
        "dense_exchange_bytes": summary.dense_exchange_bytes,
        "communication_fraction": summary.exchange_bytes / summary.dense_exchange_bytes
        if summary.dense_exchange_bytes
        else None,
        "predicted_step_s": prediction.step_s,
        "predicted_exchange_wait_s": prediction.exchange_s,
        "predicted_peak_memory_bytes": peak,
        "num_devices_out_of_memory": len(prediction.out_of_memory),
        **_of_devices(prediction),
        **_beside(placed, prediction),
    }


def _beside(placed: PlacedSetting, prediction: Prediction) -> dict[str, Any]:
    """A plan beside the best dense way and fewer samples of its compute."""
    search = placed.search
    dense = None if search is None else fitting_dense(search)
    if search is None or dense is None:
        return {}
    spent = prediction.flops / placed.dense_flops
    fewer = fewest_beside(search, samples_for(spent, search.steps.num_samples))
    peak = float(prediction.peak_memory_bytes.max())
    return {
        "best_dense_way": way_text(dense),
        "predicted_dense_step_s": dense.dense_step_s,
        "step_fraction": prediction.step_s / dense.dense_step_s,
        "peak_memory_fraction": peak / float(dense.peak_memory_bytes.max()),
        "fewer_samples": sum(fewer.samples),
        "fewer_samples_way": way_text(fewer),
        "predicted_fewer_samples_step_s": fewer.dense_step_s,
    }


def _of_solution(solution: Solution) -> dict[str, Any]:
    return {
        "status": solution.status.value,
        "upper_bound": solution.upper_bound if np.isfinite(solution.upper_bound) else None,
        "gap_fraction": solution.gap if np.isfinite(solution.gap) else None,
        "build_s": solution.build_s,
        "solve_s": solution.solve_s,
    }


def _of_devices(prediction: Prediction) -> dict[str, Any]:
    cost = step_cost(prediction)
    return {
        "num_devices_used": int(np.count_nonzero(prediction.device_busy_s)),
        "workload_cv": prediction.workload_cv,
        "predicted_energy_j": cost.energy_j,
        "predicted_price": cost.price,
    }
