"""Predictions held against measurements, over plans that no calibration has seen.

The plans are the dense run, single-operation extremes, exact and two-stage schedules at several
budgets, exact ones for step times that capacities of the cluster allow, and random ones; scores are
drawn at random, since times do not depend on them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from d2ft_sched.deployment import Deployment
from d2ft_sched.plan.planning import solve_formulation
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.prediction import Prediction
from sim.target.target_search import TargetSearch

BUDGETS = (
    ("dp", 0.8, 1.0),
    ("dp", 0.6, 1.0),
    ("dp", 0.4, 1.0),
    ("dp", 1.0, 0.75),
    ("dp", 1.0, 0.5),
    ("dp", 1.0, 0.25),
    ("dp", 0.6, 0.5),
    ("two_stage", 0.6, 1.0),
    ("two_stage", 0.6, 0.5),
    ("random", 0.8, 1.0),
    ("random", 0.6, 1.0),
    ("random", 0.6, 0.5),
)
"""Solver, fraction of compute, fraction of communication."""

TARGETS = (0.75, 0.55, 0.4)
"""Fractions of the simulated dense step; levels of every block are chosen for them."""

QUANTITIES = ("flops", "bytes", "peak_memory_bytes", "step_s")
"""What is compared; bytes are those of the whole step, memory that of the fullest device."""


def validation_schedules(deployment: Deployment, seed: int) -> dict[str, np.ndarray]:
    """Schedules by name, int8 ``[num_subnets, num_microbatches]``; equal ones appear once.

    Args:
        deployment: one replica; capacities come from its cluster's speeds.
        seed: of the scores and of random schedules.
    """
    workload = deployment.workload
    size = (workload.num_subnets, workload.num_microbatches)
    num_devices = len(deployment.cluster.devices)
    forward, backward = np.random.default_rng(seed).lognormal(size=(2, *size))
    scores = Scores(forward, backward)
    schedules = {
        "dense": uniform_schedule(*size, Operation.FULL),
        "all FORWARD_ONLY": uniform_schedule(*size, Operation.FORWARD_ONLY),
        "all SHORTCUT": uniform_schedule(*size, Operation.SHORTCUT),
    }
    for solver, compute, communication in BUDGETS:
        if communication < 1 and num_devices == 1:
            continue
        budget = Budget(compute, communication, patterns=1 if communication < 1 else None)
        formulation = formulate(deployment, scores, budget)
        schedule = solve_formulation(formulation, solver, seed=seed).schedule
        if schedule is not None and not any((schedule == s).all() for s in schedules.values()):
            schedules[f"{solver}, compute {compute:g}, bytes {communication:g}"] = schedule
    if num_devices > 1:
        schedules |= _for_targets(deployment, scores)
    return schedules


def _for_targets(deployment: Deployment, scores: Scores) -> dict[str, np.ndarray]:
    search = TargetSearch(deployment, scores)
    plans = {f"dp, step {target:g}x": search.plan(target * search.dense_s) for target in TARGETS}
    return {name: plan.schedule for name, plan in plans.items() if plan is not None}


@dataclass(frozen=True, eq=False)
class Measured:
    """One step as it ran.

    Attributes:
        step_s: median seconds.
        step_spread_s: distance between the quartiles.
        phase_s: seconds of each device by phase, float ``[num_devices]`` each.
        flops: counted.
        pair_bytes: from row to column device, ``[num_devices, num_devices]``.
        peak_memory_bytes: of each device, float ``[num_devices]``.
    """

    step_s: float
    step_spread_s: float
    phase_s: Mapping[str, np.ndarray]
    flops: float
    pair_bytes: np.ndarray
    peak_memory_bytes: np.ndarray


def rank_phase_seconds(
    prediction: Prediction, groups: Sequence[Sequence[int]] | None = None
) -> dict[str, np.ndarray]:
    """Seconds that each device spends in the phases of `runtime.measure.rank_step_times.PHASES`.

    As a rank's clock sees them: an exchange includes the wait for those who reach it later, and the
    all-reduce is what it waits for sums of gradients, and for slower replicas, after backward;
    float ``[num_devices]`` each.

    Args:
        prediction: of a step.
        groups: devices of each replica; default one of all devices.
    """
    num_devices = len(prediction.cluster.devices)
    names = ("trunk", "dispatch", "lanes", "combine", "all-reduce", "optimizer")
    seconds = {name: np.zeros(num_devices) for name in names}
    *_, update = prediction.phases
    for replica, group in enumerate([range(num_devices)] if groups is None else groups):
        devices, own_end_s = np.array(group), 0.0
        waiting = np.zeros(len(devices))
        for phase in prediction.phases:
            if phase.replica != replica:
                continue
            own_end_s = max(own_end_s, phase.end_s)
            name = next(n for n in names if phase.name.endswith(n))
            if phase.device_s is not None:
                seconds[name][devices] += phase.device_s[devices]
                waiting += phase.duration_s - phase.device_s[devices]
            else:
                seconds[name][devices] += waiting + phase.duration_s
                waiting = np.zeros(len(devices))
        assert update.device_s is not None
        seconds["all-reduce"][devices] += waiting + update.start_s - own_end_s
        seconds["optimizer"][devices] += update.device_s[devices]
    return seconds


def direction_seconds(prediction: Prediction) -> dict[str, np.ndarray]:
    """Seconds of forward, backward and optimizer on one device, float ``[1]`` each."""
    seconds = {name: np.zeros(1) for name in ("forward", "backward", "optimizer")}
    for phase in prediction.phases:
        if phase.device_s is not None:
            seconds["optimizer" if phase.direction == "update" else phase.direction] += (
                phase.device_s
            )
    return seconds


def validation_table(
    predicted: Mapping[str, Prediction], measured: Mapping[str, Measured]
) -> pd.DataFrame:
    """One row per plan: columns predicted_Q, measured_Q and error_Q for Q in `QUANTITIES`, and
    step_spread_s. An error is (predicted - measured) / measured; that of the memory is the worst of
    all devices that hold something.
    """
    rows = []
    for name, run in measured.items():
        said = predicted[name]
        holds = said.memory.parameters > 0
        memory = said.peak_memory_bytes[holds] / run.peak_memory_bytes[holds] - 1
        pairs = {
            "flops": (said.flops, run.flops),
            "bytes": (said.exchange_bytes, float(run.pair_bytes.sum())),
            "peak_memory_bytes": (said.peak_memory_bytes.max(), run.peak_memory_bytes.max()),
            "step_s": (said.step_s, run.step_s),
        }
        row: dict[str, str | float] = {"plan": name}
        for quantity, (before, after) in pairs.items():
            row[f"predicted_{quantity}"] = float(before)
            row[f"measured_{quantity}"] = float(after)
            row[f"error_{quantity}"] = relative_error(before, after)
        row["error_peak_memory_bytes"] = float(memory[np.abs(memory).argmax()])
        row["step_spread_s"] = run.step_spread_s
        rows.append(row)
    return pd.DataFrame(rows)


def phase_table(
    phases: Mapping[str, Mapping[str, np.ndarray]], measured: Mapping[str, Measured]
) -> pd.DataFrame:
    """One row per plan and phase: mean over devices of predicted_s and measured_s, and
    error_of_step, their difference as a share of the measured step."""
    rows = [
        {
            "plan": name,
            "phase": phase,
            "predicted_s": float(phases[name][phase].mean()),
            "measured_s": float(seconds.mean()),
            "error_of_step": float((phases[name][phase].mean() - seconds.mean()) / run.step_s),
        }
        for name, run in measured.items()
        for phase, seconds in run.phase_s.items()
    ]
    return pd.DataFrame(rows)


def relative_error(predicted: float, measured: float) -> float:
    """(predicted - measured) / measured; 0 where both are 0."""
    if predicted == measured:
        return 0.0
    return float(predicted / measured - 1) if measured else float("inf")


@dataclass(frozen=True)
class Agreement:
    """How well one quantity was predicted over all plans.

    Attributes:
        mean: of the absolute relative errors.
        largest: of them.
        worst_plan: where it is.
        kendall_tau: rank correlation of predicted and measured order; NaN where all are equal.

    Read back from a file, what was not finite is None.
    """

    mean: float | None
    largest: float | None
    worst_plan: str
    kendall_tau: float | None


def agreement(table: pd.DataFrame, quantity: str) -> Agreement:
    """Of one of `QUANTITIES` in a `validation_table`."""
    errors = table[f"error_{quantity}"].abs()
    worst = int(errors.to_numpy().argmax())
    tau = kendalltau(table[f"predicted_{quantity}"], table[f"measured_{quantity}"]).statistic
    return Agreement(
        mean=float(errors.mean()),
        largest=float(errors.iloc[worst]),
        worst_plan=str(table["plan"].iloc[worst]),
        kendall_tau=float(tau),
    )
