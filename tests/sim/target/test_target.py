"""Plans for a step time, against the simulator."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.star_clusters import study_clusters
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.balanced import place_candidates
from d2ft_sched.plan.plan_file import dump_plan, parse_plan
from d2ft_sched.plan.planning import solve_formulation
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.scores import Scores, uniform_scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from sim.step import simulate_plan, simulate_step
from sim.target.block_times import BlockTimes
from sim.target.target_plan import parse_target, plan_for_target

SHAPE = ModelShape("m", 6, 6, 16, 96, 384, 17, trunk_parameters=5000)
PARTITION = partition_by_heads(SHAPE, 1)
WORKLOAD = Workload(SHAPE, PARTITION, (4,) * 5)
SIZE = (len(PARTITION), 5)
EXACT = (1, 3, 4, 5)
"""Seeds of random cases in which levels alone find no schedule in the very time of a known one."""


def switch_of(speeds, bandwidths, latency_s=1e-5):
    devices = tuple(Device(f"d{i}", 1e10 * v, 10**9, 1e13 * v) for i, v in enumerate(speeds))
    links = tuple(
        Link(d.name, "switch", b, latency_s) for d, b in zip(devices, bandwidths, strict=True)
    )
    return Cluster("c", devices, links, ("switch",))


def random_scores(seed=0):
    rng = np.random.default_rng(seed)
    return Scores(rng.lognormal(size=SIZE), rng.lognormal(size=SIZE))


def dense_s(cluster, placement):
    dense = np.full(SIZE, Operation.FULL, dtype=np.int8)
    return simulate_step(deploy(WORKLOAD, cluster, placement), dense).step_s


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3))
def test_blocks_are_priced_as_the_simulator_does(seed, num_devices, num_waves):
    rng = np.random.default_rng(seed)
    cluster = switch_of(rng.uniform(0.1, 10, num_devices), 10 ** rng.uniform(6, 10, num_devices))
    placement = Placement(
        num_devices,
        tuple(rng.integers(0, num_devices, SIZE[0]).tolist()),
        tuple(rng.integers(0, num_devices, 5).tolist()),
    )
    schedules = rng.integers(0, 3, (3, *SIZE)).astype(np.int8)
    schedules[2, :12] = schedules[0, 24:]  # which are alike, and cut once
    seconds = BlockTimes(deploy(WORKLOAD, cluster, placement, num_waves)).seconds(schedules)
    for number, schedule in enumerate(schedules):
        phases = simulate_step(deploy(WORKLOAD, cluster, placement, num_waves), schedule).phases
        for block in range(SHAPE.num_blocks):
            simulated = sum(
                p.duration_s
                for p in phases
                if p.block == block and p.name != "trunk" and not p.is_sum
            )
            assert seconds[block, number] == pytest.approx(simulated, rel=1e-9)


@pytest.mark.parametrize("fraction", [0.8, 0.5])
@pytest.mark.parametrize(
    "cluster",
    [
        switch_of([1, 1, 1, 1, 1, 0.1], [1e12] * 6),
        switch_of([1, 2, 3, 5, 7, 10], [1e8] * 6),
        switch_of([1, 1, 1, 1, 1, 1], [1e9] * 5 + [1e7]),
        switch_of([3, 1, 0.3], [1e9, 1e8, 1e7]),
    ],
    ids=["slow device", "ten speeds", "slow link", "both"],
)
def test_the_simulated_step_is_within_two_percent_of_the_target(cluster, fraction):
    workload = Workload(SHAPE, PARTITION, (2,) * 10)
    rng = np.random.default_rng(0)
    scores = Scores(rng.lognormal(size=(36, 10)), rng.lognormal(size=(36, 10)))
    placement = place_round_robin(PARTITION, 10, len(cluster.devices))
    dense = np.full((36, 10), Operation.FULL, dtype=np.int8)
    target_s = fraction * simulate_step(deploy(workload, cluster, placement), dense).step_s
    plan = plan_for_target([deploy(workload, cluster, placement)], scores, target_s)
    step_s = simulate_plan(plan).step_s
    assert 0.98 * target_s <= step_s <= target_s * (1 + 1e-9)
    assert parse_plan(dump_plan(plan)) == plan
    again = solve_formulation(formulate(deploy(workload, cluster, placement), scores, plan.budget))
    assert again.objective == pytest.approx(plan.solver.objective)


def test_only_the_slow_device_is_cut():
    cluster = switch_of([1, 1, 1, 1, 1, 0.25], [1e13] * 6, latency_s=0.0)
    placement = Placement(6, place_round_robin(PARTITION, 5, 6).subnet_device, (0, 1, 2, 3, 4))
    fast = switch_of([1] * 6, [1e13] * 6, latency_s=0.0)
    target_s = 1.01 * dense_s(fast, placement)
    plan = plan_for_target([deploy(WORKLOAD, cluster, placement)], uniform_scores(*SIZE), target_s)
    device = np.array(placement.subnet_device)
    assert (plan.schedule[device < 5] == Operation.FULL).all()
    assert (plan.schedule[device == 5] != Operation.FULL).any()
    assert simulate_plan(plan).step_s >= 0.98 * dense_s(fast, placement)


def test_only_the_slow_link_is_cut():
    cluster = switch_of([1] * 6, [1e10] * 5 + [1e8], latency_s=0.0)
    placement = Placement(6, place_round_robin(PARTITION, 5, 6).subnet_device, (0, 1, 2, 3, 4))
    target_s = 0.5 * dense_s(cluster, placement)
    plan = plan_for_target([deploy(WORKLOAD, cluster, placement)], random_scores(), target_s)
    device = np.array(placement.subnet_device)
    assert (plan.schedule[device < 5] == Operation.FULL).all()
    assert simulate_plan(plan).step_s >= 0.98 * target_s


@pytest.mark.parametrize("fraction", [0.7, 0.4])
def test_equal_devices_get_equal_work(fraction):
    cluster = switch_of([1] * 6, [1e13] * 6, latency_s=0.0)
    workload = Workload(SHAPE, PARTITION, (4,) * 6)
    placement = place_round_robin(PARTITION, 6, 6)
    dense = np.full((SIZE[0], 6), Operation.FULL, dtype=np.int8)
    target_s = fraction * simulate_step(deploy(workload, cluster, placement), dense).step_s
    plan = plan_for_target(
        [deploy(workload, cluster, placement)], uniform_scores(SIZE[0], 6), target_s
    )
    busy = simulate_plan(plan).device_busy_s
    np.testing.assert_allclose(busy, busy[0], rtol=1e-9)


def test_the_best_of_several_placements_is_taken():
    cluster = switch_of([4, 1, 1], [1e9, 1e8, 1e7])
    placements = [c.placement for c in place_candidates(WORKLOAD, cluster)[:2]]
    placements.append(place_round_robin(PARTITION, 5, 3))
    target_s = 0.7 * min(dense_s(cluster, p) for p in placements)
    best = plan_for_target(
        [deploy(WORKLOAD, cluster, placement) for placement in placements],
        random_scores(),
        target_s,
    )
    for placement in placements:
        try:
            plan = plan_for_target(
                [deploy(WORKLOAD, cluster, placement)], random_scores(), target_s
            )
        except InputError:
            continue
        assert plan.solver.objective <= best.solver.objective + 1e-9


@pytest.mark.parametrize("factor", [1, 3])
def test_a_target_that_the_dense_step_meets_is_dense(factor):
    cluster = switch_of([1, 2], [1e9] * 2)
    placement = place_round_robin(PARTITION, 5, 2)
    target_s = factor * dense_s(cluster, placement)
    plan = plan_for_target([deploy(WORKLOAD, cluster, placement)], random_scores(), target_s)
    assert (plan.schedule == Operation.FULL).all()
    assert ("dense needs no more" in plan.solver.method) == (factor > 1)


@pytest.mark.parametrize("fraction", [0.9, 0.7, 0.5, 0.3])
def test_a_target_between_two_levels_of_equal_devices_is_met(fraction):
    shape = load_model_shape("vit_small_patch14_dinov2", image_size=224, num_classes=10)
    workload = Workload(shape, partition_by_heads(shape, 1), (8,) * 10)
    cluster = study_clusters()[0]
    (found,) = place_candidates(workload, cluster, every_device=True)
    target_s = fraction * found.dense_step_s
    plan = plan_for_target(
        [deploy(workload, cluster, found.placement)],
        uniform_scores(workload.num_subnets, 10),
        target_s,
    )
    assert 0.95 * target_s <= simulate_plan(plan).step_s <= target_s * (1 + 1e-9)


def in_turn(workload, placement, coverage):
    """Every micro-batch passes as many subnets of every block, of devices that have run least."""
    schedule = np.zeros((workload.num_subnets, workload.num_microbatches), dtype=np.int8)
    device = np.array(placement.subnet_device)
    for block in range(workload.shape.num_blocks):
        members, load = np.flatnonzero(workload.partition.block == block), Counter()
        for microbatch in range(workload.num_microbatches):
            load_of = [load[device[subnet]] for subnet in members]
            for subnet in members[np.argsort(load_of, kind="stable")][:coverage]:
                schedule[subnet, microbatch] = Operation.FORWARD_ONLY
                load[device[subnet]] += 1
    return schedule


@pytest.mark.parametrize("bandwidth", [1e7, 1e10])
@pytest.mark.parametrize("coverage", [1, 2])
def test_a_target_that_a_covering_schedule_meets_is_not_refused(coverage, bandwidth):
    shape = replace(SHAPE, num_blocks=2)
    workload = Workload(shape, partition_by_heads(shape, 2), (4,) * 3)
    size = (workload.num_subnets, workload.num_microbatches)
    cluster = switch_of([1] * 3, [bandwidth] * 3)
    placement = place_round_robin(workload.partition, 3, 3)
    enough = simulate_step(
        deploy(workload, cluster, placement), in_turn(workload, placement, coverage)
    )
    rng = np.random.default_rng(0)
    scores = Scores(rng.lognormal(size=size), rng.lognormal(size=size))
    plan = plan_for_target(
        [deploy(workload, cluster, placement)], scores, 1.05 * enough.step_s, coverage=coverage
    )
    assert simulate_plan(plan).step_s <= 1.05 * enough.step_s * (1 + 1e-9)
    for block in range(shape.num_blocks):
        active = plan.schedule[workload.partition.block == block] != Operation.SHORTCUT
        assert (active.sum(axis=0) >= coverage).all()


@pytest.mark.parametrize("seed", EXACT)
def test_the_very_time_of_a_covering_schedule_is_met(seed):
    """Random models, clusters and coverages: no part of the time is to spare."""
    rng = np.random.default_rng(seed)
    shape = replace(SHAPE, num_blocks=int(rng.integers(1, 4)))
    partition = partition_by_heads(shape, int(rng.integers(1, 4)))
    workload = Workload(shape, partition, (int(rng.integers(1, 5)),) * int(rng.integers(2, 7)))
    number = int(rng.integers(1, 5))
    cluster = switch_of(10 ** rng.uniform(-1, 1, number), 10 ** rng.uniform(6, 10, number))
    placement = place_round_robin(partition, workload.num_microbatches, number)
    coverage = int(rng.integers(1, min(3, len(partition.of_block(0))) + 1))
    size = (workload.num_subnets, workload.num_microbatches)
    scores = Scores(rng.lognormal(size=size), rng.lognormal(size=size))
    known = in_turn(workload, placement, coverage)
    target_s = simulate_step(deploy(workload, cluster, placement), known).step_s
    plan = plan_for_target(
        [deploy(workload, cluster, placement)], scores, target_s, coverage=coverage
    )
    assert simulate_plan(plan).step_s <= target_s * (1 + 1e-9)
    assert parse_plan(dump_plan(plan)) == plan
    for block in range(shape.num_blocks):
        active = plan.schedule[partition.block == block] != Operation.SHORTCUT
        assert (active.sum(axis=0) >= coverage).all()
    again = solve_formulation(formulate(deploy(workload, cluster, placement), scores, plan.budget))
    assert again.objective >= plan.solver.objective * (1 - 1e-9)


def test_a_refused_coverage_is_told_a_time_that_is_met():
    cluster = switch_of([1, 0.4], [1e9] * 2)
    shape = replace(SHAPE, num_blocks=1)
    workload = Workload(shape, partition_by_heads(shape, 1), (4,) * 3)
    placement = place_round_robin(workload.partition, 3, 2)
    given = ([deploy(workload, cluster, placement)], uniform_scores(6, 3))
    shortcut = np.zeros((6, 3), dtype=np.int8)
    fixed_s = simulate_step(deploy(workload, cluster, placement), shortcut).step_s
    said = r"with a coverage of 2, of which the quickest found takes ([\d.e-]+) s"
    with pytest.raises(InputError, match=said) as refused:
        plan_for_target(*given, 1.01 * fixed_s, coverage=2)
    found = re.search(said, str(refused.value))
    assert found is not None
    target_s = float(found[1]) * 1.001
    plan = plan_for_target(*given, target_s, coverage=2)
    assert simulate_plan(plan).step_s <= target_s


def test_more_subnets_than_a_coverage_leaves_room_for_are_refused_in_a_line():
    cluster = switch_of([1], [1e9])
    placement = Placement(1, (0,) * SIZE[0], (0,) * 5)
    given = ([deploy(WORKLOAD, cluster, placement)], random_scores(), 1.0)
    assert plan_for_target(*given, coverage=2).budget.coverage == 2
    with pytest.raises(InputError, match="a block has 1 subnet"):
        plan_for_target(*given, coverage=2, aligned=True)
    with pytest.raises(InputError, match="a block has 6 subnets"):
        plan_for_target(*given, coverage=7)


def test_an_impossible_target_names_the_least():
    cluster = switch_of([1, 2], [1e9] * 2)
    placement = place_round_robin(PARTITION, 5, 2)
    with pytest.raises(InputError, match=r"alone take .* and .* s with one of them: ask for more"):
        plan_for_target([deploy(WORKLOAD, cluster, placement)], random_scores(), 1e-9)


@pytest.mark.parametrize("number", [1, 2])
def test_a_target_below_the_trunk_of_all_says_how_many_microbatches_leave_time(number):
    cluster = switch_of([1, 2], [1e6] * 2)
    workload = replace(WORKLOAD, shape=replace(SHAPE, embed_flops=10**9))
    placement = place_round_robin(PARTITION, 5, 2)
    deployment = deploy(workload, cluster, placement)

    def fixed_s(number):
        few = replace(workload, microbatch_samples=(4,) * number)
        owners = replace(placement, owner=placement.owner[:number])
        shortcut = np.zeros((SIZE[0], number), dtype=np.int8)
        return simulate_step(deploy(few, cluster, owners), shortcut).step_s

    target_s = 1.001 * fixed_s(number)
    most = max(n for n in range(1, 6) if fixed_s(n) <= target_s)
    with pytest.raises(InputError, match=f"or for at most {most} micro-batches"):
        plan_for_target([deployment], random_scores(), target_s)


def test_few_large_operations_stay_below_the_target_and_say_so():
    shape = ModelShape("one", 1, 1, 16, 16, 384, 17)
    workload = Workload(shape, partition_by_heads(shape, 1), (4, 4))
    cluster = switch_of([1], [1e9])
    placement = Placement(1, (0,), (0, 0))
    dense = np.full((1, 2), Operation.FULL, dtype=np.int8)
    target_s = 0.9 * simulate_step(deploy(workload, cluster, placement), dense).step_s
    plan = plan_for_target([deploy(workload, cluster, placement)], uniform_scores(1, 2), target_s)
    assert simulate_plan(plan).step_s < 0.98 * target_s
    assert "no levels that keep more score fit" in plan.solver.method


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.4x", (0.4, True)), ("1.5", (1.5, False)), ("2s", (2.0, False)), ("80ms", (0.08, False))],
)
def test_targets_are_read(text, value):
    assert parse_target(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "x", "-1s", "0x", "fast", "nan", "inf"])
def test_other_targets_are_refused(text):
    with pytest.raises(InputError, match="target step time is"):
        parse_target(text)
