"""Steps of several replicas: sums beside backward, bytes one by one, and closed forms."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.exchange import plan_exchange
from d2ft_sched.costs.gradient_sums import gradient_sums
from d2ft_sched.costs.memory import device_memory
from d2ft_sched.costs.parameters import subnet_parameters, trained_parameters
from d2ft_sched.costs.replica_memory import part_devices, replicas_memory, sum_bytes
from d2ft_sched.deployment import Deployment, deploy
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.replica_part import replica_parts
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.dense.device_alone import DeviceRun, device_alone
from sim.network.collectives import all_reduce
from sim.network.exchange_time import ExchangeTimes, channel_seconds, link_loads
from sim.prediction import Prediction
from sim.questions.bounds import step_bounds
from sim.questions.critical_path import critical_path
from sim.questions.jitter import Jitter, jittered_step_seconds
from sim.questions.sensitivity import sensitivities
from sim.questions.trace import trace
from sim.questions.utilisation import device_utilisation
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
    classifier_parameters=480,
)


def cluster_of(speeds: list[float], bandwidth: float = 1e6, latency_s: float = 1e-4) -> Cluster:
    devices = tuple(
        Device(f"d{i}", 1e9 * v, 10**9, 1e18, launch_s=1e-6) for i, v in enumerate(speeds)
    )
    links = tuple(Link(d.name, "switch", bandwidth, latency_s) for d in devices)
    return Cluster("c", devices, links, ("switch",))


def islands(inside: float, between: float) -> Cluster:
    """Two pairs of devices, each behind an uplink of its own."""
    devices = tuple(Device(n, 1e9, 10**9, 1e18) for n in ("a0", "a1", "b0", "b1"))
    links = (
        *(Link(d.name, d.name[0], inside, 1e-6) for d in devices),
        Link("a", "b", between, 1e-5),
    )
    return Cluster("islands", devices, links, ("a", "b"))


def alone_on(device: int, num_devices: int, num_subnets: int, num_own: int, waves: int) -> Replica:
    return Replica(Placement(num_devices, (device,) * num_subnets, (device,) * num_own), waves)


@st.composite
def steps(draw: st.DrawFn) -> tuple[Workload, Cluster, list[Replica], np.ndarray]:
    """Random devices in random replicas on a switch or two islands, random cuts, waves, rest."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lora = draw(st.sampled_from([None, Lora(2, 4.0)]))
    num_replicas = int(rng.integers(1, 4))
    cluster = islands(10 ** rng.uniform(5, 8), 10 ** rng.uniform(5, 8))
    if draw(st.booleans()):
        cluster = cluster_of(rng.uniform(0.2, 3, 4).tolist(), 10 ** rng.uniform(5, 8))
    samples = tuple(rng.integers(1, 5, num_replicas + int(rng.integers(0, 4))).tolist())
    workload = Workload(
        SHAPE, partition_by_heads(SHAPE, int(rng.choice([1, 2]))), samples, lora=lora
    )
    groups = np.array_split(rng.permutation(4)[: rng.integers(num_replicas, 5)], num_replicas)
    dealt = np.array_split(np.arange(len(samples)), num_replicas)
    replicas = [
        Replica(
            Placement(
                4,
                tuple(rng.choice(group, workload.num_subnets).tolist()),
                tuple(rng.choice(group, len(own)).tolist()),
            ),
            int(rng.integers(1, len(own) + 1)),
        )
        for group, own in zip(groups, dealt, strict=True)
    ]
    chances = rng.dirichlet(np.ones(4))
    schedule = rng.choice(4, (workload.num_subnets, len(samples)), p=chances).astype(np.int8)
    return workload, cluster, replicas, schedule


def bytes_one_by_one(
    workload: Workload, replicas: list[Replica], schedule: np.ndarray
) -> np.ndarray:
    """Messages of every replica, and 2 (n - 1) messages of an n-th of every sum."""
    parts = replica_parts(workload, replicas, schedule)
    total = sum(plan_exchange(p.workload, p.placement, p.schedule).pair_bytes() for p in parts)
    total = np.asarray(total, dtype=float)
    for one in gradient_sums(workload, replicas, schedule):
        num = len(one.members)
        for place, member in enumerate(one.members):
            following = one.members[(place + 1) % num]
            total[member, following] += 2 * (num - 1) * one.num_values * 4 / num
    return total


@settings(deadline=None, max_examples=80)
@given(steps(), st.booleans())
def test_bytes_links_and_order(case, overlap: bool) -> None:
    workload, cluster, replicas, schedule = case
    found = simulate_step(Deployment(workload, cluster, replicas), schedule, overlap)
    expected = bytes_one_by_one(workload, replicas, schedule)
    np.testing.assert_allclose(found.pair_bytes, expected)
    step_s = found.step_s * (1 + 1e-9)
    assert step_s >= found.device_busy_s.max()
    carried_s = channel_seconds(cluster, link_loads(cluster, found.pair_bytes))
    assert step_s >= carried_s.max()
    sums = [p for p in found.phases if p.is_sum]
    assert len(sums) == len(gradient_sums(workload, replicas, schedule))
    for place, later in enumerate(sums):
        assert later.duration_s >= later.alone_s * (1 - 1e-9)
        for earlier in sums[:place]:
            loads = [link_loads(cluster, p.pair_bytes) > 0 for p in (earlier, later)]
            if (loads[0] & loads[1]).any():
                assert later.start_s >= earlier.end_s * (1 - 1e-9)
        before = [p for p in found.phases if p.block == later.block and p.replica >= 0]
        if later.block >= 0:
            ready = max(p.end_s for p in before if p.direction == "backward")
            assert later.start_s >= ready * (1 - 1e-9)
    update = found.phases[-1]
    assert update.name == "optimizer"
    assert update.start_s >= max(p.end_s for p in found.phases[:-1]) * (1 - 1e-9)
    for index, part in enumerate(replica_parts(workload, replicas, schedule)):
        own = [p for p in found.phases if p.replica == index]
        if part.is_idle:
            assert not own
            continue
        of_itself = simulate_step(
            Deployment(part.workload, cluster, (part.replica,)), part.schedule, overlap
        )
        mine = [p for p in of_itself.phases if p.replica == 0]
        assert [(p.name, p.block, p.wave) for p in own] == [(p.name, p.block, p.wave) for p in mine]
        if cluster.is_non_blocking_switch:
            np.testing.assert_allclose([p.end_s for p in own], [p.end_s for p in mine])
    flops = [
        simulate_step(deploy(p.workload, cluster, p.placement), p.schedule).flops
        for p in replica_parts(workload, replicas, schedule)
        if not p.is_idle
    ]
    assert found.flops == pytest.approx(sum(flops))


def test_a_replica_of_which_nothing_runs_takes_part_in_the_sums_alone() -> None:
    cluster = cluster_of([1.0, 2.0], 1e9)
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4, 4))
    replicas = [Replica(Placement(2, (d,) * workload.num_subnets, (d,))) for d in (0, 1)]
    schedule = uniform_schedule(workload.num_subnets, 2, Operation.FULL)
    schedule[:, 1] = Operation.SHORTCUT
    found = simulate_step(Deployment(workload, cluster, replicas), schedule)
    assert {p.replica for p in found.phases} == {0, -1}
    own = replica_parts(workload, replicas, schedule)[0]
    alone = simulate_step(deploy(own.workload, cluster, own.placement), own.schedule)
    assert found.flops == alone.flops
    update = found.phases[-1].device_s
    assert update is not None
    assert found.device_busy_s[1] == update[1] > 0
    assert len([p for p in found.phases if p.is_sum]) == len(
        gradient_sums(workload, replicas, schedule)
    )


@settings(deadline=None, max_examples=25)
@given(steps(), st.booleans())
def test_questions_are_answered(case, overlap: bool) -> None:
    workload, cluster, replicas, schedule = case

    def on(where: Cluster) -> Prediction:
        return simulate_step(Deployment(workload, where, replicas), schedule, overlap)

    found = on(cluster)
    path = critical_path(found)
    assert path[0].start_s == 0
    assert path[-1].end_s == found.step_s
    for before, after in pairwise(path):
        assert after.start_s == pytest.approx(before.end_s, rel=1e-6, abs=1e-12)
    assert sum(b.seconds for b in step_bounds(found)) == pytest.approx(found.step_s)
    calm = jittered_step_seconds(found, Jitter(), 3, seed=0)
    np.testing.assert_allclose(calm, found.step_s)
    late = jittered_step_seconds(
        found, Jitter(straggler_probability=1.0, straggler_factor=2.0), 2, 0
    )
    assert (late >= found.step_s * (0.9 if overlap else 1 - 1e-9)).all()
    np.testing.assert_allclose(device_utilisation(found)["busy_s"], found.device_busy_s)
    for one in sensitivities(found, on, max_bottlenecks=2):
        assert one.unlimited_step_s <= found.step_s * (1 + 1e-6)
    assert trace(found)["otherData"]["step_s"] == found.step_s
    assert found.timeline()["end_s"].max() == pytest.approx(found.step_s)


@pytest.mark.parametrize("lora", [None, Lora(4, 8.0)])
@pytest.mark.parametrize("bandwidth", [1e5, 1e7, 1e12])
@pytest.mark.parametrize("memory_bytes", [10**9, 800_000])
def test_data_parallel_is_the_closed_form(lora, bandwidth, memory_bytes) -> None:
    cluster = cluster_of([1.0, 2.0, 0.5], bandwidth)
    devices = tuple(replace(d, memory_bytes=memory_bytes) for d in cluster.devices)
    cluster = replace(cluster, devices=devices)
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 4), (40,), lora=lora)
    runs = [device_alone(workload, d, n) for d, n in zip(devices, (12, 19, 9), strict=True)]
    passes = [run.pass_samples for run in runs]
    several = replace(workload, microbatch_samples=tuple(n for own in passes for n in own))
    replicas = [
        alone_on(d, 3, workload.num_subnets, len(own), len(own)) for d, own in enumerate(passes)
    ]
    dense = uniform_schedule(workload.num_subnets, several.num_microbatches, Operation.FULL)
    found = simulate_step(Deployment(several, cluster, replicas), dense)
    done_s = np.array([run.step_s - run.update_s - last_backward_s(run).sum() for run in runs])
    summed_s, times, buffer_bytes = 0.0, ExchangeTimes(cluster), np.zeros(3)
    for one in gradient_sums(several, replicas, dense):
        through = {3: 2, 1: 1, 0: 0}.get(one.block)  # the classifier's waits for the last block
        if through is not None:
            done_s = done_s + [last_backward_s(run)[through] for run in runs]
        ring = all_reduce(times, range(3), float(one.num_values * several.parameter_bytes))
        summed_s = max(summed_s, done_s.max()) + ring.seconds
        buffer_bytes = np.maximum(buffer_bytes, ring.buffer_bytes)
    assert found.step_s == pytest.approx(summed_s + max(r.update_s for r in runs), rel=1e-9)
    np.testing.assert_allclose(found.device_busy_s, [run.step_s for run in runs])
    assert found.exchange_bytes == pytest.approx(2 * 2 * 4 * trained_parameters(workload))
    needed = [run.peak_memory_bytes for run in runs] + buffer_bytes
    np.testing.assert_allclose(found.peak_memory_bytes, needed, rtol=0.05)


def last_backward_s(run: DeviceRun) -> np.ndarray:
    """Of every block, in the last pass."""
    return run.passes.backward_block_s(-1)


def test_one_replica_of_one_device_is_that_device_alone() -> None:
    cluster = cluster_of([1.0, 2.0, 0.5])
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 4), (13,))
    dense = uniform_schedule(workload.num_subnets, 1, Operation.FULL)
    replica = alone_on(1, 3, workload.num_subnets, 1, 1)
    found = simulate_step(Deployment(workload, cluster, (replica,)), dense)
    run = device_alone(workload, cluster.devices[1])
    assert found.step_s == pytest.approx(run.step_s)
    assert found.flops == run.flops
    assert not found.pair_bytes.any()
    assert found.peak_memory_bytes.tolist() == [0, pytest.approx(run.peak_memory_bytes), 0]


def two_alone(schedule: np.ndarray, bandwidth: float = 1e5) -> Prediction:
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 4), (8, 8))
    replicas = [alone_on(d, 2, 3, 1, 1) for d in (0, 1)]
    return simulate_step(
        Deployment(workload, cluster_of([1.0, 1.0], bandwidth), replicas), schedule
    )


def test_blocks_that_rest_save_their_sums_gradients_and_updates() -> None:
    dense = uniform_schedule(3, 2, Operation.FULL)
    resting = dense.copy()
    resting[:2] = Operation.REST
    full, rested = two_alone(dense), two_alone(resting)
    of_blocks = 4 * 2 * (SHAPE.num_parameters - SHAPE.trunk_parameters) // 3
    assert full.exchange_bytes - rested.exchange_bytes == 2 * of_blocks
    saved = full.memory.gradients - rested.memory.gradients
    assert saved.tolist() == [of_blocks] * 2
    assert (full.memory.optimizer_state == rested.memory.optimizer_state).all()
    times = ExchangeTimes(full.cluster)
    one_s = all_reduce(times, (0, 1), of_blocks / 2).seconds
    assert full.step_s - rested.step_s == pytest.approx(2 * one_s, rel=0.05)


def test_a_replica_that_rests_what_another_trains_still_sums_and_updates_it() -> None:
    schedule = uniform_schedule(3, 2, Operation.REST)
    schedule[1, 1] = Operation.FULL
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 4), (8, 8))
    found = two_alone(schedule)
    first = 4 * (subnet_parameters(workload)[1] + SHAPE.trunk_parameters)
    assert found.memory.gradients.tolist() == [first, first]
    assert len(set(found.phases[-1].device_s.tolist())) == 1


def test_exchanges_go_first_and_sums_take_what_they_leave() -> None:
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 2), (16, 16))
    dense = uniform_schedule(workload.num_subnets, 2, Operation.FULL)
    replicas = [Replica(Placement(4, (d, d + 1) * 3, (d,))) for d in (0, 2)]
    slow = islands(inside=1e6, between=1e7)
    found = simulate_step(Deployment(workload, slow, replicas), dense)
    sums = [p for p in found.phases if p.is_sum]
    assert any(p.yielded_s > 0 for p in sums)
    exchanges = [p for p in found.phases if p.pair_bytes is not None and p.replica == 0]
    part = replica_parts(workload, replicas, dense)[0]
    apart = simulate_step(deploy(part.workload, slow, part.placement), part.schedule)
    np.testing.assert_allclose(
        [p.end_s for p in exchanges],
        [p.end_s for p in apart.phases if p.pair_bytes is not None and not p.is_sum],
    )
    fast = islands(inside=1e12, between=1e5)
    assert all(
        p.yielded_s <= 1e-3 * p.duration_s
        for p in simulate_step(Deployment(workload, fast, replicas), dense).phases
        if p.is_sum
    )


def test_an_uplink_that_two_replicas_exchange_over_is_divided() -> None:
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 2), (16, 16))
    dense = uniform_schedule(workload.num_subnets, 2, Operation.FULL)
    across = [Replica(Placement(4, (d, d + 2) * 3, (d,))) for d in (0, 1)]
    cluster = islands(inside=1e12, between=1e6)
    found = simulate_step(Deployment(workload, cluster, across), dense)
    part = replica_parts(workload, across, dense)[0]
    one = simulate_step(deploy(part.workload, cluster, part.placement), part.schedule)

    def moving_s(prediction: Prediction) -> float:
        of_first = [p for p in prediction.phases if p.pair_bytes is not None and p.replica == 0]
        return sum(p.duration_s for p in of_first)

    assert moving_s(found) == pytest.approx(2 * moving_s(one), rel=1e-2)


@settings(deadline=None, max_examples=40)
@given(steps(), st.booleans())
def test_memory_is_that_of_each_replica_and_of_buckets(case, overlap: bool) -> None:
    workload, cluster, replicas, schedule = case
    found = simulate_step(Deployment(workload, cluster, replicas), schedule, overlap).memory
    trains = (schedule == Operation.FULL).any(axis=1)
    for part in replica_parts(workload, replicas, schedule):
        own_replica = Replica(part.placement) if overlap else part.replica
        merging = part_devices(part, cluster.devices)
        own = device_memory(part.workload, own_replica, part.schedule, trains, merging)
        devices = sorted({*part.placement.subnet_device, *part.placement.owner})
        assert (found.total[devices] >= own.total[devices]).all()
        for name in ("parameters", "gradients", "activations", "optimizer_state"):
            np.testing.assert_array_equal(
                getattr(found, name)[devices], getattr(own, name)[devices]
            )


def test_copies_for_sums_appear_while_activations_are_freed() -> None:
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 2), (64, 64, 64))
    dense = uniform_schedule(workload.num_subnets, 3, Operation.FULL)
    replicas = [Replica(Placement(3, (0, 1) * 3, (0, 1))), Replica(Placement(3, (2,) * 6, (2,)))]
    copied, on_their_way = sum_bytes(workload, replicas, gradient_sums(workload, replicas, dense))
    assert (copied[:, 2] > 0).all()
    part = replica_parts(workload, replicas, dense)[1]
    own = device_memory(part.workload, part.replica, part.schedule)
    found = replicas_memory(workload, replicas, dense)
    assert found.total[2] == own.total[2] + on_their_way[2] + copied[-1, 2]
    assert found.exchange_buffers[2] == copied[:, 2].sum() + on_their_way[2]


def test_a_hybrid_sums_over_the_network_what_islands_hold() -> None:
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 2), (8, 8, 8))
    dense = uniform_schedule(workload.num_subnets, 3, Operation.FULL)
    replicas = [
        Replica(Placement(4, (0, 1) * 3, (0, 1))),
        Replica(Placement(4, (3, 2) * 3, (2,))),
    ]
    sums = gradient_sums(workload, replicas, dense)
    of_heads = {s.members for s in sums if len(s.heads)}
    assert of_heads == {(0, 3), (1, 2)}
    assert {s.members for s in sums if s.has_trunk} == {(0, 1, 2)}
    found = simulate_step(Deployment(workload, islands(1e8, 1e6), replicas), dense)
    np.testing.assert_allclose(found.pair_bytes, bytes_one_by_one(workload, replicas, dense))
