"""Levels that stay while devices change: closed forms, and the loop that closes over itself."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.deployment import deploy
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.minibatch_schedules import solve_minibatches
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.plan.replanning import (
    CHANGE_THAT_COUNTS,
    HELD_WITHIN,
    DevicePace,
    DeviceTimes,
    FirstTimes,
    as_planned,
    changed_pace,
    first_times,
    hold_levels,
    measured_pace,
    values_of_schedule,
)
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin

SHAPE = vision_transformer_shape(
    "small", image_size=28, patch_size=14, width=96, num_blocks=2, num_heads=6, mlp_hidden=384,
    num_classes=5,
)  # fmt: skip
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4,) * 10)
CLUSTER = Cluster(
    "three",
    tuple(Device(f"d{i}", 1e10, 2**33, 1e12) for i in range(3)),
    tuple(Link(f"d{i}", "switch", 1e9, 0.0) for i in range(3)),
    ("switch",),
)
PLACEMENT = place_round_robin(WORKLOAD.partition, WORKLOAD.num_microbatches, 3)


def planned(budget: Budget):
    scores = uniform_scores(WORKLOAD.num_subnets, WORKLOAD.num_microbatches)
    return make_plan(deploy(WORKLOAD, CLUSTER, PLACEMENT), scores, budget)


def levels_of(schedule: np.ndarray, budget: Budget):
    return hold_levels(deploy(WORKLOAD, CLUSTER, PLACEMENT), budget, schedule)


def solved(levels, pace: DevicePace, value: np.ndarray) -> np.ndarray:
    return solve_minibatches(levels.formulation_at(pace), [value]).operations[0]


@pytest.mark.parametrize(
    "budget", [Budget(0.6), Budget(0.6, per_block=False), Budget(0.7, 0.5, patterns=1)]
)
def test_a_slower_device_spends_the_same_seconds_on_fewer_operations(budget):
    plan = planned(budget)
    levels = levels_of(plan.schedule, budget)
    value = values_of_schedule(plan.schedule, 0)
    before = levels.lanes_s(plan.schedule)
    pace = DevicePace((1.0, 2.0, 1.0), (0.0,) * 3)
    after = levels.lanes_s(solved(levels, pace, value))
    assert after[1] * 2 <= levels.total_s * (1 + 1e-9)
    largest = levels.cost_s.max() * (6 if budget.patterns == 1 else 1)
    blocks = 1 if not budget.per_block else SHAPE.num_blocks
    assert after[1] * 2 >= min(levels.total_s - blocks * 2 * largest, before[1])
    assert after[[0, 2]] == pytest.approx(before[[0, 2]], abs=blocks * largest)


def test_a_trunk_that_takes_longer_is_paid_from_the_lanes():
    budget = Budget(0.6)
    plan = planned(budget)
    levels = levels_of(plan.schedule, budget)
    later = 0.25 * levels.total_s
    slower = levels.formulation_at(DevicePace((1.0, 1.0, 1.0), (0.0, later, 0.0)))
    is_second = slower.knapsack_device == 1
    assert slower.problem.capacity[is_second, 0] == pytest.approx(0.75 * levels.level_s[is_second])
    hopeless = levels.formulation_at(DevicePace((1.0,) * 3, (0.0, 2 * levels.total_s, 0.0)))
    schedule = solve_minibatches(hopeless, [values_of_schedule(plan.schedule, 0)]).operations[0]
    assert (schedule[levels.device == 1] == Operation.SHORTCUT).all()


def test_bytes_and_memory_keep_their_limits():
    budget = Budget(1.0, 0.5)
    plan = planned(budget)
    levels = levels_of(plan.schedule, budget)
    faster = levels.formulation_at(DevicePace((0.5,) * 3, (0.0,) * 3))
    assert np.isfinite(faster.problem.capacity[:, 1]).all()
    scores = uniform_scores(WORKLOAD.num_subnets, WORKLOAD.num_microbatches)
    assert solve_minibatches(faster, [scores.values()]).operations.shape[1:] == plan.schedule.shape


def test_without_scores_the_plan_s_own_operations_stay_as_long_as_they_fit():
    budget = Budget(0.5)
    plan = planned(budget)
    levels = levels_of(plan.schedule, budget)
    value = values_of_schedule(plan.schedule, 3)
    same = solved(levels, as_planned(3), value)
    assert (levels.lanes_s(same) <= levels.total_s * (1 + 1e-9)).all()
    fewer = solved(levels, DevicePace((2.0,) * 3, (0.0,) * 3), value)
    assert (plan.schedule[fewer == Operation.FULL] == Operation.FULL).all()


def test_a_schedule_that_spends_nothing_leaves_nothing_to_spend():
    nothing = np.zeros((WORKLOAD.num_subnets, WORKLOAD.num_microbatches), dtype=np.int8)
    levels = levels_of(nothing, Budget())
    value = values_of_schedule(np.full_like(nothing, Operation.FULL), seed=0)
    assert not solved(levels, DevicePace((2.0, 1.0, 1.0), (0.1, 0.0, 0.0)), value).any()


def test_every_device_is_held_to_its_own_first_times():
    first = first_times(
        DeviceTimes(
            np.ones(3),
            np.array([1.2, np.nan, 2.0]),
            np.array([0.1, 0.2, 0.3]),
            np.array([0.5, 0.4, 0.4]),
        )
    )
    assert first is not None
    assert first.exchange_s == 0.4
    assert first.step_s == pytest.approx(1.7)
    assert first.ratio == pytest.approx((1.2, 1.6, 2.0))
    ratio, rest_s = np.array([1.2, np.nan, 6.0]), np.array([0.1, 0.4, 0.3])
    nothing = DeviceTimes(np.zeros(1), np.array([np.nan]), np.ones(1), np.ones(1))
    assert first_times(nothing) is None
    pace = measured_pace(DeviceTimes(np.ones(3), ratio, rest_s, np.full(3, 0.4)), first, 1.0)
    assert pace.slowdown == pytest.approx((1.0, 2.0, 3.0))
    # Device 0 is as it was; the others may take what their lanes leave of 1.1 steps of 1.7 s.
    assert pace.later_s[0] == 0.0
    assert pace.later_s[1] == pytest.approx((1.6 - 1 - (1.87 - 1.8)) / 1.6)
    assert pace.later_s[2] == pytest.approx(2 * 0.4 / 2.0)  # what exchanges explain at most


def test_lanes_of_a_slower_device_move_by_what_the_step_lacks_within_bounds():
    first = FirstTimes((2.0,) * 3, (0.1,) * 3, exchange_s=0.4, step_s=1.5)
    ratio = np.array([2.18, 3.0, 4.0])
    long = measured_pace(DeviceTimes(np.ones(3), ratio, np.full(3, 0.1), np.ones(3)), first, 0.5)
    assert long.slowdown == pytest.approx((1.09, 1.5, 2.0))
    # A step of 2.1 s is 0.45 s too long; half of an exchange of 0.4 s explains 0.2 s of these.
    assert long.later_s == pytest.approx((0.0, 0.1, 0.2))
    short_s = np.full(3, 0.1)
    short = measured_pace(DeviceTimes(np.ones(3), ratio, short_s, short_s), first, 0.5)
    assert short.later_s == pytest.approx((0.0, -0.075, -0.075))


def test_small_changes_and_returns_to_the_first_pace():
    in_force = DevicePace((1.0, 2.0, 1.0), (0.0, 0.5, 0.0))
    now = DevicePace((1.08, 1.06, 1.3), (0.08, 0.0, 0.0))
    pace, changed = changed_pace(in_force, now, 1.0)
    assert changed == (1, 2)
    assert pace == DevicePace((1.0, 1.0, 1.3), (0.0, 0.0, 0.0))
    assert changed_pace(pace, replace(now, slowdown=(0.93, 1.0, 1.36)), 1.0) == (pace, ())


@given(
    speed=st.floats(0.6, 1.0),
    launch=st.floats(0.0, 0.4),
    serving=st.floats(0.0, 0.5),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_repeated_looks_come_to_rest_within_what_is_allowed(speed, launch, serving, seed):
    """A device whose lanes cost something whatever they do, and whose processor serves messages."""
    budget = Budget(0.6)
    plan = planned(budget)
    levels = levels_of(plan.schedule, budget)
    value = values_of_schedule(plan.schedule, seed)
    overhead_s, serving_s = launch * levels.total_s, serving * levels.total_s

    def look(schedule: np.ndarray, rate: float) -> DeviceTimes:
        rates = np.array([1.0, rate, 1.0])
        lanes_s = (levels.lanes_s(schedule) + overhead_s) / rates
        step_s = (lanes_s + serving_s / rates).max()
        ratio = lanes_s / np.maximum(levels.lanes_s(schedule), 1e-300)
        return DeviceTimes(lanes_s, ratio, np.zeros(3), step_s - lanes_s)

    start = look(plan.schedule, 1.0)
    first = first_times(start)
    assert first is not None
    schedule, pace = plan.schedule, as_planned(3)
    for _ in range(8):
        now = measured_pace(look(schedule, speed), first, levels.total_s)
        pace, changed = changed_pace(pace, now, levels.total_s)
        if changed:
            schedule = solved(levels, pace, value)
    end = look(schedule, speed)
    allowed_s = (1 + HELD_WITHIN) * start.step_s
    room_s = SHAPE.num_blocks * levels.cost_s.max() / speed + CHANGE_THAT_COUNTS * levels.total_s
    assert end.step_s <= allowed_s + room_s
    most_s = min(allowed_s - serving_s / speed, start.lanes_s[1] / speed)
    assert end.lanes_s[1] >= most_s - 2 * room_s
