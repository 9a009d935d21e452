"""All-reduces and the dense baselines built on them, beside closed forms."""

from dataclasses import replace
from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable
from d2ft_sched.costs.flops import step_flops, trunk_flops
from d2ft_sched.costs.memory import device_memory
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.dense_baselines import tensor_parallel_step
from sim.network.collectives import ALL_REDUCES, all_reduce, ring_all_reduce, tree_all_reduce
from sim.network.exchange_time import ExchangeTimes
from sim.step import simulate_step

BANDWIDTH, LATENCY_S = 1e6, 1e-3
SHAPE = ModelShape(
    "m",
    num_blocks=3,
    num_heads=6,
    head_dim=8,
    width=48,
    mlp_hidden=96,
    num_tokens=5,
    embed_flops=960,
    classifier_flops=960,
    trunk_parameters=4321,
)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4, 4, 4, 4))
DENSE = uniform_schedule(WORKLOAD.num_subnets, 4, Operation.FULL)


def switch_of(speeds: list[float], memory_bandwidth: float = 1e18) -> Cluster:
    names = [f"d{i}" for i in range(len(speeds))]
    network = topology.star(names, Cable(BANDWIDTH, LATENCY_S))
    devices = tuple(
        Device(n, 1e9 * v, 10**9, memory_bandwidth * v) for n, v in zip(names, speeds, strict=True)
    )
    return Cluster("switch", devices, network.links, network.switches)


def alone_on(device: Device) -> float:
    placement = Placement(1, (0,) * WORKLOAD.num_subnets, (0,) * 4)
    return simulate_step(deploy(WORKLOAD, Cluster("one", (device,)), placement), DENSE).step_s


@pytest.mark.parametrize("num_members", [1, 2, 3, 5, 8, 13])
def test_ring_on_a_switch(num_members):
    times = ExchangeTimes(switch_of([1.0] * 13))
    members = list(range(13))[-num_members:]
    found = all_reduce(times, members, 6e5, "ring")
    num_rounds = 2 * (num_members - 1)
    expected_s = num_rounds * (6e5 / num_members / BANDWIDTH + 2 * LATENCY_S)
    assert found.seconds == pytest.approx(expected_s)
    sent = found.pair_bytes.sum(axis=1)
    np.testing.assert_allclose(sent[members], 2 * (num_members - 1) / num_members * 6e5)
    assert sent.sum() == pytest.approx(sent[members].sum())


@pytest.mark.parametrize("num_members", [1, 2, 3, 5, 8, 13])
def test_tree_on_a_switch(num_members):
    times = ExchangeTimes(switch_of([1.0] * 13))
    found = all_reduce(times, list(range(num_members)), 6e5, "tree")
    num_rounds = 2 * ceil(log2(num_members))
    assert found.seconds == pytest.approx(num_rounds * (6e5 / BANDWIDTH + 2 * LATENCY_S))
    assert found.pair_bytes.sum() == pytest.approx(2 * (num_members - 1) * 6e5)


def test_ring_on_a_ring_uses_every_link_and_a_tree_does_not():
    names = [f"d{i}" for i in range(8)]
    network = topology.ring(names, Cable(BANDWIDTH, 0.0))
    devices = tuple(Device(n, 1e9, 10**9, 1e18) for n in names)
    times = ExchangeTimes(Cluster("ring", devices, network.links))
    ring_s = all_reduce(times, range(8), 8e5, "ring").seconds
    assert ring_s == pytest.approx(2 * 7 / 8 * 0.8)
    assert all_reduce(times, range(8), 8e5, "tree").seconds == pytest.approx(2 * 3 * 0.8)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_messages_of_a_tree_sum_at_the_first_and_reach_all(num_members, seed):
    members = np.random.default_rng(seed).permutation(24)[:num_members].tolist()
    values = {m: {m} for m in members}
    rounds = tree_all_reduce(members, 24, 1.0)
    for one in rounds:
        sent = {m: set(v) for m, v in values.items()}
        for source, target in np.argwhere(one.pair_bytes).tolist():
            values[target] |= sent[source]
    assert all(v == set(members) for v in values.values())


@pytest.mark.parametrize("num_members", [2, 3, 6])
def test_messages_of_a_ring_are_equal_shares_to_the_next(num_members):
    (one,) = ring_all_reduce(range(num_members), num_members, 12.0)
    expected = np.roll(np.eye(num_members), 1, axis=1) * 12 / num_members
    np.testing.assert_array_equal(one.pair_bytes, expected)


def test_unknown_algorithm_and_split():
    cluster = switch_of([1.0, 1.0])
    with pytest.raises(InputError, match="algorithm is 'star'; it must be one of ring, tree"):
        all_reduce(ExchangeTimes(cluster), [0, 1], 1.0, "star")
    with pytest.raises(InputError, match="split is 'odd'"):
        tensor_parallel_step(WORKLOAD, cluster, split="odd")


@pytest.mark.parametrize("algorithm", sorted(ALL_REDUCES))
@pytest.mark.parametrize("num_devices", [1, 2, 3, 6])
def test_tensor_parallel_step_in_closed_form(num_devices, algorithm):
    cluster = switch_of([1.0] * num_devices)
    found = tensor_parallel_step(WORKLOAD, cluster, algorithm)
    activations = float(WORKLOAD.activation_bytes.sum())
    one = all_reduce(ExchangeTimes(cluster), range(num_devices), activations, algorithm)
    assert found.exchange_bytes == pytest.approx(12 * 2 * (num_devices - 1) * activations)
    trunk = trunk_flops(WORKLOAD)
    trunk_total = float((trunk.forward + trunk.backward).sum())
    lanes = step_flops(WORKLOAD, DENSE) - trunk_total
    assert found.flops == pytest.approx(lanes + num_devices * trunk_total)
    expected_s = (lanes / num_devices + trunk_total) / 1e9 + 12 * one.seconds
    assert found.step_s == pytest.approx(expected_s, rel=1e-6)


def test_on_one_device_it_is_the_step_of_that_device():
    cluster = switch_of([1.0], memory_bandwidth=1e9)
    expected_s = alone_on(cluster.devices[0])
    placement = Placement(1, (0,) * WORKLOAD.num_subnets, (0,) * 4)
    memory = device_memory(WORKLOAD, Replica(placement), DENSE)
    found = tensor_parallel_step(WORKLOAD, cluster)
    assert found.step_s == pytest.approx(expected_s)
    np.testing.assert_allclose(found.peak_memory_bytes, memory.total)


def test_a_split_by_speed_helps_unequal_devices():
    workload = replace(WORKLOAD, microbatch_samples=(4,) * 10)

    def seconds(speeds: list[float], split: str) -> float:
        return tensor_parallel_step(workload, switch_of(speeds), split=split).step_s

    assert seconds([3.0, 1.0, 1.0], "speed") < seconds([3.0, 1.0, 1.0], "even")
    assert seconds([1.0, 1.0], "speed") == seconds([1.0, 1.0], "even")


def test_tensor_parallel_devices_sum_the_gradients_of_shared_factors():
    workload = replace(WORKLOAD, lora=Lora(4, 8.0))
    found = tensor_parallel_step(workload, switch_of([1.0] * 3))
    *_, reduced, update = found.phases
    assert (reduced.name, update.name) == ("adapter all-reduce", "optimizer")
    factors = SHAPE.num_blocks * workload.lora.shared_parameters(SHAPE)
    assert reduced.pair_bytes.sum() == pytest.approx(2 * 2 * factors * 4)


def test_tensor_parallelism_needs_a_hidden_unit_for_each_head():
    shape = replace(SHAPE, mlp_hidden=SHAPE.num_heads - 1)
    workload = replace(WORKLOAD, shape=shape, partition=partition_by_heads(shape, 1))
    with pytest.raises(InputError, match="tensor parallelism needs a hidden unit for each"):
        tensor_parallel_step(workload, switch_of([1.0, 1.0]))


def test_memory_of_parts():
    tensor = tensor_parallel_step(WORKLOAD, switch_of([1.0, 1.0]))
    subnets = SHAPE.num_parameters - SHAPE.trunk_parameters
    np.testing.assert_allclose(tensor.memory.parameters, 4 * (SHAPE.trunk_parameters + subnets / 2))


def test_devices_without_a_part_take_no_part():
    found = tensor_parallel_step(WORKLOAD, switch_of([1.0] * 8))
    assert (found.device_busy_s > 0).sum() == 6
    idle = found.device_busy_s == 0
    assert not found.pair_bytes[idle].any()
    assert not found.peak_memory_bytes[idle].any()
