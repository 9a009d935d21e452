"""Schedules that are solved as a training comes to them."""

import numpy as np
import pytest

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.deployment import deploy
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.minibatch_schedules import solve_minibatches
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.plan.replanning import DevicePace, hold_levels
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.scores import drawn_scores, uniform_scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from runtime.training.schedule_source import (
    SOLVED_AT_ONCE,
    DrawnScores,
    KnownScores,
    SolvedSchedules,
)

SHAPE = vision_transformer_shape(
    "small", image_size=28, patch_size=14, width=96, num_blocks=2, num_heads=6, mlp_hidden=384,
    num_classes=5,
)  # fmt: skip
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4,) * 8)
CLUSTER = Cluster(
    "two",
    tuple(Device(f"d{i}", 1e10, 2**33, 1e12) for i in range(2)),
    tuple(Link(f"d{i}", "switch", 1e9, 0.0) for i in range(2)),
    ("switch",),
)
PLACEMENT = place_round_robin(WORKLOAD.partition, WORKLOAD.num_microbatches, 2)
SIZE = (WORKLOAD.num_subnets, WORKLOAD.num_microbatches)
UNIFORM = uniform_scores(*SIZE)
DRAWN = DrawnScores(*SIZE, seed=1)


def value_of(index: int) -> np.ndarray:
    return drawn_scores(*SIZE, seed=1, step=index).values()


def worth(schedule: np.ndarray, index: int) -> float:
    chosen = schedule[..., None].astype(np.intp)
    return float(np.take_along_axis(value_of(index), chosen, axis=2).sum())


@pytest.mark.parametrize("num_known", [None, SOLVED_AT_ONCE + 3])
def test_each_step_gets_what_its_scores_alone_would(num_known):
    formulation = formulate(deploy(WORKLOAD, CLUSTER, PLACEMENT), UNIFORM, Budget(0.6))
    scores = DRAWN if num_known is None else KnownScores(DRAWN.some(0, num_known))
    schedules = SolvedSchedules(formulation, scores)
    for step, minibatch in enumerate((SOLVED_AT_ONCE + 2, 3, SOLVED_AT_ONCE, 3)):
        index = step if num_known is None else minibatch
        (alone,) = solve_minibatches(formulation, [value_of(index)]).operations
        both = [worth(chosen, index) for chosen in (schedules(step, minibatch), alone)]
        assert both[0] == pytest.approx(both[1], rel=1e-9)


def test_scores_are_asked_for_once():
    asked: list[int] = []

    class Counted(KnownScores):
        def some(self, first: int, number: int):
            asked.append(first)
            return super().some(first, number)

    formulation = formulate(deploy(WORKLOAD, CLUSTER, PLACEMENT), UNIFORM, Budget(0.6))
    schedules = SolvedSchedules(formulation, Counted(DRAWN.some(0, SOLVED_AT_ONCE + 3)))
    for minibatch in (SOLVED_AT_ONCE + 2, 3, SOLVED_AT_ONCE, 3):
        schedules(0, minibatch)
    assert asked == [SOLVED_AT_ONCE, 0]


def test_another_pace_holds_from_the_next_step_on():
    budget = Budget(0.6)
    plan = make_plan(deploy(WORKLOAD, CLUSTER, PLACEMENT), UNIFORM, budget)
    levels = hold_levels(deploy(WORKLOAD, CLUSTER, PLACEMENT), budget, plan.schedule)
    formulation = levels.formulation_at(DevicePace((1.0, 1.0), (0.0, 0.0)))
    schedules = SolvedSchedules(formulation, DRAWN)
    before = schedules(0, 0)
    schedules.keep_pace(levels, DevicePace((1.0, 3.0), (0.0, 0.0)), (1,))
    after = schedules(1, 0)
    slow = np.array(PLACEMENT.subnet_device) == 1
    num_full = [int((s[slow] == Operation.FULL).sum()) for s in (before, after)]
    assert num_full[1] < 0.5 * num_full[0]
