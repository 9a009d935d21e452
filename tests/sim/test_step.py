"""The step simulator against closed forms and bounds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.exchange import plan_exchange
from d2ft_sched.costs.flops import step_flops
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.step import simulate_step

SHAPE = ModelShape(
    "m",
    num_blocks=3,
    num_heads=4,
    head_dim=8,
    width=32,
    mlp_hidden=64,
    num_tokens=5,
    embed_flops=1000,
    classifier_flops=640,
    trunk_parameters=4321,
)
PARTITION = partition_by_heads(SHAPE, 1)
WORKLOAD = Workload(SHAPE, PARTITION, (4, 4, 4))
FAST_MEMORY = 1e18
BY_COST = np.array([0, 1, 3, 2], dtype=np.int8)
"""Operations by what they take, rest before FULL, and the place of each in that order."""


def switch_of(speeds: list[float], bandwidth: float = 1e8, latency_s: float = 1e-4) -> Cluster:
    devices = tuple(Device(f"d{i}", 1e9 * v, 10**9, FAST_MEMORY) for i, v in enumerate(speeds))
    links = tuple(Link(d.name, "switch", bandwidth, latency_s) for d in devices)
    return Cluster("c", devices, links, ("switch",))


@st.composite
def cases(draw):
    speeds = draw(st.lists(st.floats(0.1, 10), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    placement = Placement(
        len(speeds),
        tuple(rng.integers(0, len(speeds), len(PARTITION)).tolist()),
        tuple(rng.integers(0, len(speeds), 3).tolist()),
    )
    schedule = rng.integers(0, 4, (len(PARTITION), 3)).astype(np.int8)
    return switch_of(speeds), placement, schedule


def test_one_device_takes_the_sum_of_its_work():
    cluster = Cluster("one", (Device("d", 1e9, 10**9, FAST_MEMORY),))
    placement = place_round_robin(PARTITION, 3, 1)
    dense = uniform_schedule(len(PARTITION), 3, Operation.FULL)
    prediction = simulate_step(deploy(WORKLOAD, cluster, placement), dense)
    assert prediction.step_s == pytest.approx(step_flops(WORKLOAD, dense) / 1e9, rel=1e-6)
    assert prediction.exchange_bytes == 0
    assert prediction.device_idle_s[0] == pytest.approx(0, abs=1e-9)


def test_an_owner_is_spared_the_norms_of_blocks_that_none_of_its_microbatches_runs():
    slow_memory = tuple(Device(f"d{i}", 1e30, 10**9, 1e6) for i in range(2))
    cluster = replace(switch_of([1, 1]), devices=slow_memory)
    placement = Placement(2, (0,) * len(PARTITION), (0, 1, 1))
    schedule = uniform_schedule(len(PARTITION), 3, Operation.FULL)

    def trunk_s() -> np.ndarray:
        phases = simulate_step(deploy(WORKLOAD, cluster, placement), schedule).phases
        return sum(p.device_s for p in phases if p.name == "trunk")

    dense = trunk_s()
    assert dense[1] == pytest.approx(2 * dense[0])
    schedule[PARTITION.block == 1, 1] = Operation.SHORTCUT
    assert trunk_s() == pytest.approx(dense)
    schedule[PARTITION.block == 1, 2] = Operation.SHORTCUT
    assert trunk_s()[0] == pytest.approx(dense[0])
    assert trunk_s()[1] < 0.8 * dense[1]
    schedule[:, 0] = Operation.FORWARD_ONLY
    assert trunk_s()[0] == pytest.approx(dense[0])


def test_adapters_on_one_device_take_the_sum_of_their_work():
    shape = replace(SHAPE, classifier_parameters=330)
    workload = replace(WORKLOAD, shape=shape, lora=Lora(4, 8.0))
    cluster = Cluster("one", (Device("d", 1e9, 10**9, FAST_MEMORY),))
    placement = place_round_robin(PARTITION, 3, 1)
    dense = uniform_schedule(len(PARTITION), 3, Operation.FULL)
    prediction = simulate_step(deploy(workload, cluster, placement), dense)
    assert prediction.step_s == pytest.approx(step_flops(workload, dense) / 1e9, rel=1e-6)
    assert prediction.flops < 0.9 * step_flops(WORKLOAD, dense)


def test_adapters_gradients_are_reduced_over_owners_and_holders():
    shape = replace(SHAPE, classifier_parameters=330)
    workload = replace(WORKLOAD, shape=shape, lora=Lora(4, 8.0))
    placement = Placement(3, (0, 1, 0, 1) * 3, (0, 2, 0))
    dense = uniform_schedule(len(PARTITION), 3, Operation.FULL)
    prediction = simulate_step(deploy(workload, switch_of([1, 1, 1]), placement), dense)
    sent = [(p.block, p.pair_bytes.sum()) for p in prediction.phases if p.is_sum]
    factors = 4 * SHAPE.width * 4
    assert sent == [(-1, 2 * 330 * 4), *((b, 2 * factors * 4) for b in (2, 1, 0))]
    assert prediction.flops == step_flops(workload, dense, placement)
    assert prediction.flops > step_flops(workload, dense)


def test_a_step_without_end_is_refused():
    placement = place_round_robin(PARTITION, 3, 2)
    dense = uniform_schedule(len(PARTITION), 3, Operation.FULL)
    with pytest.raises(InputError, match="cluster 'c': its devices or links are so slow"):
        simulate_step(deploy(WORKLOAD, switch_of([1, 1], bandwidth=1e-305), placement), dense)


def test_a_slow_device_sets_the_pace_of_every_block():
    placement = place_round_robin(PARTITION, 3, 4)
    dense = uniform_schedule(len(PARTITION), 3, Operation.FULL)
    even = simulate_step(
        deploy(WORKLOAD, switch_of([1, 1, 1, 1], bandwidth=1e15, latency_s=0), placement), dense
    )
    uneven = simulate_step(
        deploy(WORKLOAD, switch_of([1, 1, 1, 0.25], bandwidth=1e15, latency_s=0), placement), dense
    )
    lanes_s = even.device_busy_s[3]
    assert uneven.step_s - even.step_s == pytest.approx(3 * lanes_s, rel=1e-6)
    assert uneven.device_idle_s[0] > uneven.device_busy_s[0]


def test_exchange_time_of_one_block_is_bytes_over_the_owners_link():
    shape = replace(SHAPE, num_blocks=1, trunk_parameters=0)
    partition = partition_by_heads(shape, 1)
    workload = Workload(shape, partition, (4,))
    cluster = switch_of([1e9, 1e9, 1e9, 1e9, 1e9], bandwidth=1e6, latency_s=0.5)
    placement = Placement(5, (1, 2, 3, 4), (0,))
    forward_only = uniform_schedule(4, 1, Operation.FORWARD_ONLY)
    prediction = simulate_step(deploy(workload, cluster, placement), forward_only)
    message = 4 * 5 * 32 * 4
    one_exchange_s = 4 * message / 1e6 + 2 * 0.5
    assert prediction.exchange_s == pytest.approx(4 * one_exchange_s)
    assert prediction.step_s == pytest.approx(4 * one_exchange_s, rel=1e-3)


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(1, 3))
def test_bytes_flops_and_bounds(case, num_waves):
    cluster, placement, schedule = case
    prediction = simulate_step(deploy(WORKLOAD, cluster, placement, num_waves), schedule)
    num_owners = len(placement.owners)
    all_reduce = 2 * (num_owners - 1) * SHAPE.trunk_parameters * 4
    exchanged = plan_exchange(WORKLOAD, placement, schedule).total_bytes()
    assert prediction.exchange_bytes == pytest.approx(exchanged + all_reduce)
    assert prediction.flops == step_flops(WORKLOAD, schedule)
    assert prediction.step_s >= prediction.device_busy_s.max() * (1 - 1e-12)
    assert prediction.step_s >= prediction.exchange_s
    links = prediction.link_bytes()
    assert (links["utilisation"] <= 1 + 1e-9).all()
    assert links["bytes"].sum() == pytest.approx(2 * prediction.exchange_bytes)
    timeline = prediction.timeline()
    assert timeline["end_s"].max() == pytest.approx(prediction.step_s)
    busy = timeline[timeline["resource"] != "network"]
    for d, device in enumerate(cluster.devices):
        mine = busy[busy["resource"] == device.name].sort_values("start_s")
        assert (mine["end_s"] - mine["start_s"]).sum() == pytest.approx(prediction.device_busy_s[d])
        assert (mine["start_s"].to_numpy()[1:] >= mine["end_s"].to_numpy()[:-1] - 1e-12).all()


@settings(deadline=None, max_examples=60)
@given(cases(), st.floats(1, 10), st.integers(0, 2**32))
def test_more_never_takes_longer(case, factor, seed):
    cluster, placement, schedule = case
    step_s = simulate_step(deploy(WORKLOAD, cluster, placement), schedule).step_s * (1 + 1e-9)
    rng = np.random.default_rng(seed)
    devices = list(cluster.devices)
    picked = int(rng.integers(len(devices)))
    devices[picked] = devices[picked].scaled(compute=factor)
    faster = replace(cluster, devices=tuple(devices))
    assert simulate_step(deploy(WORKLOAD, faster, placement), schedule).step_s <= step_s
    links = tuple(
        replace(k, bandwidth_bytes_per_s=k.bandwidth_bytes_per_s * factor) for k in cluster.links
    )
    wider = replace(cluster, links=links)
    assert simulate_step(deploy(WORKLOAD, wider, placement), schedule).step_s <= step_s
    cheaper = BY_COST[np.minimum(BY_COST[schedule], rng.integers(0, 4, schedule.shape))]
    assert simulate_step(deploy(WORKLOAD, cluster, placement), cheaper).step_s <= step_s


@pytest.mark.parametrize("lora", [None, Lora(2, 2.0)])
@pytest.mark.parametrize("num_waves", [1, 7, 64])
def test_a_step_is_priced_by_what_its_waves_have(monkeypatch, num_waves, lora):
    workload = replace(WORKLOAD, microbatch_samples=(1,) * 64, lora=lora)
    cluster = switch_of([1e12, 2e12])
    placement = place_round_robin(PARTITION, 64, 2)
    rng = np.random.default_rng(num_waves)
    schedule = rng.integers(0, 3, (workload.num_subnets, 64)).astype(np.int8)
    columns = []

    def counted(workload, placement, schedule):
        columns.append(schedule.shape[1])
        return plan_exchange(workload, placement, schedule)

    monkeypatch.setattr("sim.step.plan_exchange", counted)
    simulate_step(deploy(workload, cluster, placement, num_waves), schedule)
    assert sum(columns) == 64
    columns.clear()
    dense = uniform_schedule(workload.num_subnets, 64, Operation.FULL)
    found = simulate_step(deploy(workload, cluster, placement, num_waves), dense)
    assert sum(columns) <= 4 * (64 // num_waves + 1)
    assert {p.wave for p in found.phases} == set(range(num_waves))
