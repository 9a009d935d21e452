"""Capacities that follow what devices turn out to do: the seconds stay, the operations change.

The first schedule sets a level: the seconds of lanes that a block takes on the device that it keeps
busiest. A device that computes slower than then has to fit its operations into the seconds that
keep the step within `HELD_WITHIN` of the first ones; any other gives up what the rest of its step
(trunk, optimizer) takes longer.
"""

from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.deployment import Deployment
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import ROUNDING, Formulation, formulate, operation_seconds
from d2ft_sched.problem.scores import FORWARD_WEIGHT, uniform_scores
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation

CHANGE_THAT_COUNTS = 0.1
"""Relative change of a device's time below which its operations stay: medians of a few steps
scatter by about as much, and a block's operations are few."""

HELD_WITHIN = 0.1
"""How much longer than the first steps a step may take for the sake of a device's operations. A
device that gets next to none costs accuracy, and scatter of a few percent is not told from it."""

PREFERENCE = {Operation.FULL: 1.0, Operation.FORWARD_ONLY: 0.6, Operation.SHORTCUT: 0.5}
"""What training a subnet on a micro-batch is worth by its operation in the first schedule, where
there are no scores: the plan's own choice goes first."""

_TIE_BREAK = 1e-3


@dataclass(frozen=True, eq=False)
class DeviceTimes:
    """How long devices took for their parts of a step, float ``[num_devices]`` each.

    Attributes:
        lanes_s: seconds of all lane groups.
        ratio: these over what the cluster file predicts for them; NaN where no lane ran.
        rest_s: seconds of what does not depend on the schedule: trunk and optimizer.
        exchange_s: seconds of messages, waiting for other devices included.
    """

    lanes_s: np.ndarray
    ratio: np.ndarray
    rest_s: np.ndarray
    exchange_s: np.ndarray

    @property
    def step_s(self) -> float:
        """Seconds of a step, on the device that takes longest."""
        return float((self.lanes_s + self.rest_s + self.exchange_s).max())


@dataclass(frozen=True)
class DevicePace:
    """How devices compute beside the first steps of a training, one entry per device.

    Attributes:
        slowdown: seconds of lanes over those that the same operations took there in the first
            steps; 2 at half the speed.
        later_s: seconds that its lanes have to give up beside that, for a rest of the step and
            messages that take longer than then; below 0 where they may take longer, too. In the
            time of the cluster file.
    """

    slowdown: tuple[float, ...]
    later_s: tuple[float, ...]


@dataclass(frozen=True)
class FirstTimes:
    """What the first steps took, to which later ones are held.

    Attributes:
        ratio: measured over predicted seconds of lanes, of each device; the median of the others
            where none ran.
        rest_s: measured seconds of the rest of a step, of each device.
        exchange_s: measured seconds of messages on the device that waited least.
        step_s: measured seconds of a step.
    """

    ratio: tuple[float, ...]
    rest_s: tuple[float, ...]
    exchange_s: float
    step_s: float


@dataclass(frozen=True)
class ReplanState:
    """What a training that goes on needs to know of its re-planning.

    Attributes:
        first: what later steps are held to; None before it was known.
        pace: that the capacities in force are for.
        schedule_rows: schedule in force, a string for each subnet as in a plan; None where each
            mini-batch has its own, or samples move instead, which follows from the pace.
    """

    first: FirstTimes | None
    pace: DevicePace
    schedule_rows: tuple[str, ...] | None


@dataclass(frozen=True, eq=False)
class HeldLevels:
    """The seconds that a schedule spends, and the problem of spending them anew.

    Attributes:
        formulation: on the devices as planned, without limits of compute.
        device: of every subnet, int ``[num_subnets]``.
        cost_s: predicted seconds, float ``[num_subnets, num_microbatches, 3]``.
        level_s: of each knapsack, what the busiest knapsack of its block spends, float
            ``[num_knapsacks]``.
        num_devices: of the cluster.
    """

    formulation: Formulation
    device: np.ndarray
    cost_s: np.ndarray
    level_s: np.ndarray
    num_devices: int

    @property
    def total_s(self) -> float:
        """Seconds of the levels of all blocks together."""
        _, first = np.unique(self.formulation.knapsack_block, return_index=True)
        return float(self.level_s[first].sum())

    def lanes_s(self, schedule: np.ndarray) -> np.ndarray:
        """Predicted seconds of a schedule's lanes on devices as planned, ``[num_devices]``."""
        spent = _of_schedule(self.cost_s, schedule).sum(axis=1)
        return np.bincount(self.device, spent, minlength=self.num_devices)

    def formulation_at(self, pace: DevicePace) -> Formulation:
        """The problem in which devices of this pace spend the levels."""
        formulation = self.formulation
        problem, of_knapsack = formulation.problem, formulation.knapsack_device
        slowdown = np.array(pace.slowdown)
        later_s, total_s = np.array(pace.later_s), self.total_s
        left = np.maximum(0.0, 1 - later_s / total_s) if total_s else np.ones(len(later_s))
        level_s = self.level_s * left[of_knapsack]
        fits = level_s >= formulation.dense[:, 0] * slowdown[of_knapsack] * (1 - ROUNDING)
        capacity = problem.capacity.copy()
        capacity[:, 0] = np.where(fits, np.inf, level_s)
        cost = problem.cost.copy()
        cost[0] *= slowdown[of_knapsack[problem.knapsack]][..., None]
        return replace(formulation, problem=replace(problem, cost=cost, capacity=capacity))


def hold_levels(deployment: Deployment, budget: Budget, schedule: np.ndarray) -> HeldLevels:
    """Take the levels from what a schedule spends.

    Args:
        deployment: one replica, with devices and links as planned; its placement stays.
        budget: its limits of bytes stay; its fraction of compute and its levels are replaced by
            what the schedule spends.
        schedule: int ``[num_subnets, num_microbatches]``.

    Raises:
        InputError: as `formulate`.
    """
    scores = uniform_scores(*schedule.shape)
    limits = replace(budget, compute=1.0, levels=None, target_step_s=None)
    formulation = formulate(deployment, scores, limits)
    cost_s = operation_seconds(deployment)
    knapsack = formulation.problem.knapsack[formulation.row]
    spent_s = np.bincount(
        knapsack.ravel(),
        _of_schedule(cost_s, schedule).ravel(),
        minlength=len(formulation.knapsack_block),
    )
    _, group = np.unique(formulation.knapsack_block, return_inverse=True)
    level_s = np.zeros(int(group.max()) + 1)
    np.maximum.at(level_s, group.ravel(), spent_s)
    device = np.array(deployment.placement.subnet_device)
    num_devices = len(deployment.cluster.devices)
    return HeldLevels(formulation, device, cost_s, level_s[group.ravel()], num_devices)


def _of_schedule(cost_s: np.ndarray, schedule: np.ndarray) -> np.ndarray:
    """Seconds of the operations of a schedule, float ``[num_subnets, num_microbatches]``."""
    index = np.asarray(schedule)[..., None].astype(np.intp)
    return np.take_along_axis(cost_s, index, axis=2)[..., 0]


def first_times(measured: DeviceTimes) -> FirstTimes | None:
    """What to hold later steps to; None where no device ran a lane."""
    if np.isnan(measured.ratio).all():
        return None
    middle = np.nanmedian(measured.ratio)
    return FirstTimes(
        ratio=tuple(np.where(np.isnan(measured.ratio), middle, measured.ratio).tolist()),
        rest_s=tuple(measured.rest_s.tolist()),
        exchange_s=float(measured.exchange_s.min()),
        step_s=measured.step_s,
    )


def measured_slowdown(measured: DeviceTimes, first: FirstTimes) -> np.ndarray:
    """Of every device, float ``[num_devices]``; one that ran no lane is judged by the rest of its
    step."""
    first_rest_s = np.array(first.rest_s)
    by_rest = np.divide(
        measured.rest_s, first_rest_s, out=np.ones(len(first_rest_s)), where=first_rest_s > 0
    )
    return np.where(np.isnan(measured.ratio), by_rest, measured.ratio / np.array(first.ratio))


def measured_pace(measured: DeviceTimes, first: FirstTimes, total_s: float) -> DevicePace:
    """The pace of every device, see `measured_slowdown`.

    A device that computes slower serves its messages slower, too, and the seconds of exchanges hold
    waits for others, so they say little of how much. So its lanes are moved by what the step is
    short of `HELD_WITHIN` of the first ones: they give up at most what its processor can explain of
    exchanges, and get at most that much more than the level.

    Args:
        measured: of the last steps.
        first: what they are held to.
        total_s: `HeldLevels.total_s`.
    """
    first_ratio, slowdown = np.array(first.ratio), measured_slowdown(measured, first)
    longer_s = measured.rest_s - np.array(first.rest_s)
    allowed_s = HELD_WITHIN * first.step_s
    lanes_s = measured.lanes_s + first.step_s + allowed_s - measured.step_s
    given_up_s = np.clip(
        total_s * first_ratio - lanes_s,
        longer_s - allowed_s,
        longer_s + np.maximum(slowdown - 1, 0.0) * first.exchange_s,
    )
    is_slower = slowdown > 1 + CHANGE_THAT_COUNTS
    later_s = np.where(is_slower, given_up_s, longer_s) / first_ratio
    return DevicePace(tuple(slowdown.tolist()), tuple(later_s.tolist()))


def changed_pace(
    in_force: DevicePace, now: DevicePace, total_s: float
) -> tuple[DevicePace, tuple[int, ...]]:
    """The pace to plan for, and the devices for which it is not the one in force.

    A device keeps the pace in force unless its time has changed by `CHANGE_THAT_COUNTS`; one that
    is as close to the first steps' pace gets exactly that.

    Args:
        in_force: what the running schedule was planned for.
        now: as measured.
        total_s: `HeldLevels.total_s`.
    """
    slowdown, later_s = list(in_force.slowdown), list(in_force.later_s)
    changed = []
    for device, (ratio, later) in enumerate(zip(now.slowdown, now.later_s, strict=True)):
        is_slower = abs(ratio / slowdown[device] - 1) > CHANGE_THAT_COUNTS
        is_later = abs(later - later_s[device]) > CHANGE_THAT_COUNTS * total_s
        if not (is_slower or is_later):
            continue
        changed.append(device)
        slowdown[device] = 1.0 if abs(ratio - 1) <= CHANGE_THAT_COUNTS else ratio
        later_s[device] = later if abs(later) > CHANGE_THAT_COUNTS * total_s else 0.0
    return DevicePace(tuple(slowdown), tuple(later_s)), tuple(changed)


def as_planned(num_devices: int) -> DevicePace:
    """The pace of devices that go on as they began."""
    return DevicePace((1.0,) * num_devices, (0.0,) * num_devices)


def values_of_schedule(schedule: np.ndarray, seed: int) -> np.ndarray:
    """Values of operations that prefer those of a schedule, for want of scores.

    Args:
        schedule: int ``[num_subnets, num_microbatches]``.
        seed: what equal ones are told apart by, so that no subnet is always dropped first.

    Returns:
        float ``[num_subnets, num_microbatches, 3]``.
    """
    worth = np.array([PREFERENCE[Operation(op)] for op in range(NUM_OPERATIONS)])[schedule]
    worth = worth * (1 + _TIE_BREAK * np.random.default_rng(seed).random(schedule.shape))
    value = np.zeros((*schedule.shape, NUM_OPERATIONS))
    value[..., Operation.FORWARD_ONLY] = FORWARD_WEIGHT * worth
    value[..., Operation.FULL] = worth
    return value
