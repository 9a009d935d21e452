"""What stands behind a plan: which limits bind, what more is worth, where time and bytes go.

Limits are those of the knapsacks that a plan of one replica was chosen in. What rests, and what
several replicas do, was not: of such plans everything is free, and what is spent is predicted.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.planning.plan_summary import held_by_device
from d2ft_sched.costs.exchange import SUBLAYERS, plan_exchange
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.formulate import RESOURCES, Formulation, formulate
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.replica_part import ReplicaPart
from d2ft_sched.solvers.registry import solve
from sim.prediction import TOGETHER, Prediction
from sim.step import simulate_plan, simulate_step

UNITS = {"compute_s": "ms", "communication_bytes": "MB", "activation_bytes": "MB"}
"""Unit in which marginal values are given."""
UNIT_SIZE = {"compute_s": 1e-3, "communication_bytes": 1e6, "activation_bytes": 1e6}
ROUNDING = 1e-12
"""Gain, over the sum of all values, that is taken for none."""


@dataclass(frozen=True)
class ResourceUse:
    """One resource on one device, over all of its knapsacks.

    Attributes:
        spent: in the problem's own unit (seconds, bytes).
        dense: what the dense run spends.
        num_limited: knapsacks that may spend less than the dense run.
        num_binding: knapsacks in which more of this resource alone would keep more score.
        marginal_value: score for one more unit of `UNITS`, if it allows one more FULL operation;
            the best knapsack's, 0 where none binds.
    """

    spent: float
    dense: float
    num_limited: int
    num_binding: int
    marginal_value: float


@dataclass(frozen=True)
class DeviceExplanation:
    """One device.

    Attributes:
        name: of the device.
        num_knapsacks: blocks in which it holds subnets, or 1 for all of them together.
        num_subnets: held.
        num_owned: micro-batches owned.
        uses: by resource.
        num_slowest: phases of lanes in which none takes longer; several may take as long.
    """

    name: str
    num_knapsacks: int
    num_subnets: int
    num_owned: int
    uses: dict[str, ResourceUse]
    num_slowest: int


@dataclass(frozen=True)
class Explanation:
    """A plan, explained.

    Attributes:
        devices: in the cluster's order.
        retained: objective over that of the dense run.
        phase_s: predicted seconds of the step by kind of phase.
        step_s: their sum.
        num_lane_phases: phases of lanes in which any device computes.
    """

    devices: tuple[DeviceExplanation, ...]
    retained: float
    phase_s: dict[str, float]
    step_s: float
    num_lane_phases: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "retained_score": self.retained,
            "step_s": self.step_s,
            "phase_s": self.phase_s,
            "devices": [
                {**vars(d), "uses": {name: vars(use) for name, use in d.uses.items()}}
                for d in self.devices
            ],
        }


def explain(plan: Plan, scores: Scores) -> Explanation:
    """Explain a plan.

    Args:
        plan: with its budget; the schedule is taken as it is.
        scores: those that it was made with, for its micro-batches; they are not part of a plan.
    """
    prediction = simulate_plan(plan)
    is_of_knapsacks = len(plan.replicas) == 1 and not (plan.schedule == Operation.REST).any()
    devices = (_of_knapsacks if is_of_knapsacks else _of_replicas)(plan, scores, prediction)
    value = scores.values()
    dense_value = float(value[..., Operation.FULL].sum())
    return Explanation(
        devices=tuple(devices),
        retained=_kept(value, plan.schedule) / dense_value if dense_value else 1.0,
        phase_s=_phase_seconds(prediction),
        step_s=prediction.step_s,
        num_lane_phases=len(_slowest(prediction)),
    )


def _kept(value: np.ndarray, schedule: np.ndarray) -> float:
    """Value of a schedule; of what rests, that of its forward pass."""
    counted = np.where(schedule == Operation.REST, Operation.FORWARD_ONLY, schedule)
    return float(np.take_along_axis(value, counted[..., None].astype(np.intp), axis=2).sum())


def _of_replicas(plan: Plan, scores: Scores, prediction: Prediction) -> list[DeviceExplanation]:
    """Devices of a plan that no knapsacks chose."""
    dense = np.full_like(plan.schedule, Operation.FULL)
    dense_step = simulate_step(plan, dense)
    spent = {
        "compute_s": (prediction.device_busy_s, dense_step.device_busy_s),
        "communication_bytes": tuple(
            np.sum(
                [_message_bytes(part) for part in plan.parts_of(schedule)],
                axis=0,
            )
            for schedule in (plan.schedule, dense)
        ),
        "activation_bytes": (prediction.memory.activations, dense_step.memory.activations),
    }
    slowest = _slowest(prediction)
    held, owned = held_by_device(plan)
    return [
        DeviceExplanation(
            name=device.name,
            num_knapsacks=0,
            num_subnets=int(held[d]),
            num_owned=int(owned[d]),
            uses={
                name: ResourceUse(float(now[d]), float(before[d]), 0, 0, 0.0)
                for name, (now, before) in spent.items()
            },
            num_slowest=int(slowest[:, d].sum()),
        )
        for d, device in enumerate(plan.cluster.devices)
    ]


def _of_knapsacks(plan: Plan, scores: Scores, prediction: Prediction) -> list[DeviceExplanation]:
    """Devices of a plan whose operations knapsacks chose."""
    formulation = formulate(plan, scores, plan.budget)
    chosen = _row_schedule(formulation, plan.schedule)
    spent = formulation.problem.spending(chosen)
    spent_bytes, dense_bytes = (
        _message_bytes(part)
        for schedule in (plan.schedule, np.full_like(plan.schedule, Operation.FULL))
        for part in plan.parts_of(schedule)
    )
    gain, size = _marginal(formulation)
    slowest = _slowest(prediction)
    placement = plan.placement
    devices = []
    for d, device in enumerate(plan.cluster.devices):
        mine = formulation.knapsack_device == d
        uses = {}
        for r, name in enumerate(RESOURCES):
            value = np.divide(
                gain[mine, r] * UNIT_SIZE[name],
                size[mine, r],
                out=np.zeros(int(mine.sum())),
                where=size[mine, r] > 0,
            )
            uses[name] = ResourceUse(
                spent=float(spent[mine, r].sum()),
                dense=float(formulation.dense[mine, r].sum()),
                num_limited=int(np.isfinite(formulation.problem.capacity[mine, r]).sum()),
                num_binding=int((gain[mine, r] > 0).sum()),
                marginal_value=float(value.max(initial=0.0)),
            )
        uses["communication_bytes"] = replace(
            uses["communication_bytes"], spent=float(spent_bytes[d]), dense=float(dense_bytes[d])
        )
        devices.append(
            DeviceExplanation(
                name=device.name,
                num_knapsacks=int(mine.sum()),
                num_subnets=placement.subnet_device.count(d),
                num_owned=placement.owner.count(d),
                uses=uses,
                num_slowest=int(slowest[:, d].sum()),
            )
        )
    return devices


def _row_schedule(formulation: Formulation, schedule: np.ndarray) -> np.ndarray:
    """The choice for the problem's rows that a schedule is."""
    rows = np.empty((formulation.problem.num_subnets, schedule.shape[1]), dtype=schedule.dtype)
    rows[formulation.row] = schedule
    return rows


def _marginal(formulation: Formulation) -> tuple[np.ndarray, np.ndarray]:
    """Score that the optimum of each knapsack gains if one capacity grows by a FULL operation, and
    by how much that is; float ``[num_knapsacks, num_resources]`` both."""
    problem = formulation.problem
    knapsack = problem.knapsack[:, 0]
    gain, size = np.zeros((2, *problem.capacity.shape))
    before = _best_values(problem, problem.capacity)
    for r in range(problem.num_resources):
        limited = np.isfinite(problem.capacity[:, r])
        if not limited.any():
            continue
        np.maximum.at(size[:, r], knapsack, problem.cost[r, ..., Operation.FULL].max(axis=1))
        size[~limited, r] = 0.0
        capacity = problem.capacity.copy()
        capacity[:, r] += size[:, r]
        gain[:, r] = _best_values(problem, capacity) - before
    return np.where(gain > ROUNDING * np.abs(problem.value).sum(), gain, 0.0), size


def _best_values(problem: Problem, capacity: np.ndarray) -> np.ndarray:
    """Objective of every knapsack under other capacities, float ``[num_knapsacks]``."""
    solution = solve(replace(problem, capacity=capacity))
    assert solution.schedule is not None
    chosen = solution.schedule[..., None].astype(np.intp)
    value = np.take_along_axis(problem.value, chosen, axis=2).sum(axis=(1, 2))
    return np.bincount(problem.knapsack[:, 0], value, minlength=problem.num_knapsacks)


def _slowest(prediction: Prediction) -> np.ndarray:
    """Whether no device takes longer in a phase of lanes, bool ``[num_phases, num_devices]``."""
    device_s = np.array(
        [
            p.device_s
            for p in prediction.phases
            if p.device_s is not None and p.name.endswith("lanes") and p.device_s.any()
        ]
    ).reshape(-1, len(prediction.cluster.devices))
    return device_s >= device_s.max(axis=1, keepdims=True) * (1 - ROUNDING)


def _message_bytes(part: ReplicaPart) -> np.ndarray:
    """Bytes that the subnets of each device receive and return in a step, int ``[num_devices]``;
    those of a block on one device share their messages."""
    exchange = plan_exchange(part.workload, part.placement, part.schedule)
    return 2 * len(SUBLAYERS) * exchange.received_bytes().sum(axis=(0, 1))


def _phase_seconds(prediction: Prediction) -> dict[str, float]:
    """Seconds of the step by kind of phase, sub-layers together: of the replica that ends last, of
    sums of gradients what backward does not hide."""
    own = [p for p in prediction.phases if p.replica != TOGETHER]
    last = max(own, key=lambda p: p.end_s).replica
    total: dict[str, float] = {}
    for phase in prediction.phases:
        if phase.is_sum or phase.replica not in (last, TOGETHER):
            continue
        kind = phase.name.split()[-1] if phase.block >= 0 else phase.name
        total[kind] = total.get(kind, 0.0) + phase.duration_s
    if exposed_s := prediction.exposed_sums_s:
        total["gradient sums"] = exposed_s
    return total
