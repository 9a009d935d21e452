"""Placements against brute force, the simulator and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.memory import device_memory
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.placement_search.balanced import place_balanced, place_candidates
from d2ft_sched.placement_search.dense_bound import dense_lower_bound_s
from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.placement_search.layout import to_placement
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.step import simulate_step
from small_placements import SHAPE, best_of_all, clusters, switch_of, workload_of


@settings(deadline=None, max_examples=40)
@given(clusters(), st.integers(0, 2**32), st.integers(1, 3), st.sampled_from([1, [1, 3]]))
def test_the_dense_step_is_the_simulators(cluster, seed, num_waves, heads):
    workload = workload_of(heads, (4, 2, 3))
    rng = np.random.default_rng(seed)
    num = len(cluster.devices)
    step = DenseStep(workload, cluster, tuple(range(num)), num_waves)
    counts = np.zeros((SHAPE.num_blocks, num, len(step.sizes[0])), dtype=np.int64)
    device = rng.integers(0, num, workload.num_subnets)
    np.add.at(counts, (workload.partition.block, device, step.sizes[1]), 1)
    owner = rng.integers(0, num, 3).tolist()
    placement = to_placement(step, counts, owner)
    dense = uniform_schedule(workload.num_subnets, 3, Operation.FULL)
    simulated = simulate_step(deploy(workload, cluster, placement, num_waves), dense)
    besides_sums_s = simulated.step_s - simulated.exposed_sums_s
    found_s = step.seconds(counts, owner) - step.all_reduce_s(owner)
    assert found_s == pytest.approx(besides_sums_s, rel=1e-9)


@settings(deadline=None, max_examples=15)
@given(clusters(most=3), st.booleans(), st.sampled_from([1, [1, 3], [1, 1, 2]]))
def test_bound_brute_force_and_search(cluster, every_device, heads):
    workload = workload_of(heads)
    if every_device and len(workload.partition.of_block(0)) < len(cluster.devices):
        every_device = False
    best = best_of_all(workload, cluster, every_device=every_device)
    found = place_balanced(workload, cluster, every_device=every_device)
    assert found.lower_bound_s <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= found.dense_step_s <= best * 1.02
    if every_device:
        for block in range(SHAPE.num_blocks):
            held = {found.placement.subnet_device[s] for s in workload.partition.of_block(block)}
            assert len(held) == len(cluster.devices)


def test_speeds_are_followed_where_links_are_free():
    cluster = switch_of([3, 1], [1e15, 1e15], latency_s=0.0)
    found = place_balanced(workload_of(), cluster)
    for block in range(SHAPE.num_blocks):
        devices = [
            found.placement.subnet_device[s] for s in workload_of().partition.of_block(block)
        ]
        assert devices.count(0) == 3
    assert found.gap < 0.05


def test_slow_links_leave_one_device():
    cluster = switch_of([1, 1, 2], [1e5, 1e5, 1e5])
    found = place_balanced(workload_of(), cluster)
    assert set(found.placement.subnet_device) == {2}
    assert set(found.placement.owner) == {2}
    assert found.gap < 0.01


def test_a_slow_link_is_avoided():
    cluster = switch_of([1, 1, 1, 1], [1e12, 1e12, 1e12, 1e6], latency_s=0.0)
    found = place_balanced(workload_of(), cluster)
    assert 3 not in {*found.placement.subnet_device, *found.placement.owner}
    assert found.num_active == 2
    assert found.gap < 0.05


def test_candidates_differ_in_the_number_of_devices():
    cluster = switch_of([1, 1, 1, 1], [1e9] * 4)
    found = place_candidates(workload_of(), cluster)
    numbers = [c.num_active for c in found]
    assert len(set(numbers)) == len(numbers)
    assert [c.dense_step_s for c in found] == sorted(c.dense_step_s for c in found)


@pytest.mark.parametrize("links", [1e12, 1e5])
def test_memory_spreads_what_one_device_cannot_hold(links):
    shape = replace(SHAPE, num_blocks=6)
    workload = workload_of(shape=shape)
    roomy = switch_of([1, 1, 1], [links] * 3)
    alone = place_balanced(workload, switch_of([1], [links]))
    dense = uniform_schedule(workload.num_subnets, 3, Operation.FULL)
    need = device_memory(workload, Replica(alone.placement), dense).total[0]
    tight = switch_of([1, 1, 1], [links] * 3, memory_bytes=int(0.7 * need))
    found = place_balanced(workload, tight)
    assert found.fits_dense
    assert found.num_active > 1
    assert (device_memory(workload, Replica(found.placement), dense).total <= 0.7 * need).all()
    assert found.dense_step_s >= place_balanced(workload, roomy).dense_step_s * (1 - 1e-9)
    assert found.lower_bound_s <= found.dense_step_s
    if links == 1e5:
        per_block = [
            {found.placement.subnet_device[s] for s in workload.partition.of_block(b)}
            for b in range(6)
        ]
        assert sum(len(devices) > 1 for devices in per_block) <= 2


@pytest.mark.parametrize("roomy", [0, 1])
def test_the_bound_holds_where_equal_devices_differ_in_memory(roomy):
    memory = [10**4, 10**4]
    memory[roomy] = 10**9
    devices = tuple(Device(f"d{i}", 1e9, m, 1e10) for i, m in enumerate(memory))
    cluster = Cluster("c", devices, (Link("d0", "d1", 1e5, 1e-5),))
    step = DenseStep(workload_of(), cluster, (0, 1))
    alone = np.zeros((2, 2, 1), dtype=np.int64)
    alone[:, roomy] = 4
    assert dense_lower_bound_s(step) <= step.seconds(alone, (roomy,) * 3)


def test_memory_that_holds_only_parameters_is_said():
    workload = workload_of(samples=(400, 400, 400))
    nothing = uniform_schedule(workload.num_subnets, 3, Operation.SHORTCUT)
    alone = place_balanced(workload, switch_of([1], [1e9]))
    fixed = device_memory(workload, Replica(alone.placement), nothing).total[0]
    dense = uniform_schedule(workload.num_subnets, 3, Operation.FULL)
    needed = device_memory(workload, Replica(alone.placement), dense).total[0]
    assert not place_balanced(
        workload, switch_of([1], [1e9], memory_bytes=int(0.5 * (fixed + needed)))
    ).fits_dense
    with pytest.raises(InputError, match="no placement was found"):
        place_balanced(workload, switch_of([1], [1e9], memory_bytes=int(0.5 * fixed)))


def test_more_devices_than_subnets_cannot_each_hold_one():
    with pytest.raises(InputError, match="block 0 has 4 subnets"):
        place_balanced(workload_of(), switch_of([1] * 5, [1e9] * 5), every_device=True)
