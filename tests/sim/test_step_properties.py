"""Steps of random plans on random networks: conservation, lower bounds, monotonicity."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable, Network
from d2ft_sched.costs.exchange import plan_exchange
from d2ft_sched.deployment import deploy
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.wave_part import wave_parts
from sim.network.exchange_time import exchange_bounds, link_loads
from sim.step import simulate_step

CABLE, FAST = Cable(1e6, 1e-4), Cable(2e7, 1e-5)
NETWORKS: dict[str, Callable[[list[str]], Network]] = {
    "switch": lambda n: topology.star(n, CABLE, {n[0]: FAST}),
    "half_duplex": lambda n: topology.star(n, Cable(1e6, 1e-4, "half")),
    "full_mesh": lambda n: topology.full_mesh(n, CABLE),
    "ring": lambda n: topology.ring(n, CABLE),
    "tree": lambda n: topology.tree(n, 2, CABLE, 4.0),
    "fat_tree": lambda n: topology.fat_tree(n, 4, CABLE),
    "islands": lambda n: topology.islands([n[: len(n) // 2], n[len(n) // 2 :]], FAST, CABLE),
}
kinds = st.sampled_from(sorted(NETWORKS))
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def step_on(random_step):
    """``step_on(kind, seed)``: a random step on a network of a kind."""

    def make(kind: str, seed: int):
        step = random_step(seed, num_devices=3 + seed % 3)
        network = NETWORKS[kind]([d.name for d in step.cluster.devices])
        here = Cluster(kind, step.cluster.devices, network.links, network.switches)
        return replace(step, cluster=here)

    return make


def wider(cluster: Cluster, factors: np.ndarray) -> Cluster:
    links = tuple(
        replace(k, bandwidth_bytes_per_s=k.bandwidth_bytes_per_s * float(f))
        for k, f in zip(cluster.links, factors, strict=True)
    )
    return replace(cluster, links=links)


@settings(deadline=None, max_examples=60)
@given(kind=kinds, seed=seeds, overlap=st.booleans())
def test_lower_bounds_and_conservation(step_on, kind, seed, overlap):
    step = step_on(kind, seed)
    prediction, cluster = step.predicted(overlap), step.cluster
    step_s = prediction.step_s * (1 + 1e-9)
    assert step_s >= prediction.device_busy_s.max()
    total = np.zeros(len(cluster.links_directed))
    capacity = cluster.link_bandwidth_bytes_per_s
    for phase in prediction.phases:
        if phase.pair_bytes is None or not phase.pair_bytes.any():
            continue
        loads = link_loads(cluster, phase.pair_bytes)
        shared = np.bincount(cluster.link_channel, weights=loads, minlength=len(loads))
        assert (shared <= capacity * phase.duration_s * (1 + 1e-9)).all()
        total += loads
    on_channel = np.bincount(cluster.link_channel, weights=total, minlength=len(total))
    assert step_s >= (on_channel / capacity).max()
    np.testing.assert_allclose(total, link_loads(cluster, prediction.pair_bytes))
    exchanged = plan_exchange(step.workload, step.placement, step.schedule).pair_bytes()
    dispatched = sum(
        (p.pair_bytes for p in prediction.phases if p.pair_bytes is not None and not p.is_sum),
        start=np.zeros_like(exchanged),
    )
    np.testing.assert_array_equal(dispatched, exchanged)


@settings(deadline=None, max_examples=60)
@given(kind=kinds, seed=seeds, factor=st.floats(1, 10))
def test_faster_devices_never_lengthen_a_step(step_on, kind, seed, factor):
    step = step_on(kind, seed)
    devices = list(step.cluster.devices)
    picked = seed % len(devices)
    devices[picked] = devices[picked].scaled(compute=factor, memory_bandwidth=factor)
    faster = step.on(replace(step.cluster, devices=tuple(devices)))
    assert faster.step_s <= step.predicted().step_s * (1 + 1e-9)


@settings(deadline=None, max_examples=60)
@given(seed=seeds)
def test_on_a_switch_bandwidth_and_cheaper_schedules_never_lengthen_a_step(step_on, seed):
    step, rng = step_on("switch", seed), np.random.default_rng(seed)
    step_s = step.predicted().step_s * (1 + 1e-9)
    more = wider(step.cluster, rng.uniform(1, 5, len(step.cluster.links)))
    assert step.on(more).step_s <= step_s
    lower = np.where(rng.random(step.schedule.shape) < 0.3, np.int8(0), step.schedule)
    assert replace(step, schedule=lower).predicted().step_s <= step_s


@settings(deadline=None, max_examples=60)
@given(kind=kinds, seed=seeds)
def test_elsewhere_what_the_links_have_to_carry_never_takes_longer(step_on, kind, seed):
    """Fair sharing may take longer than that; see the last test of `test_network`."""
    step, rng = step_on(kind, seed), np.random.default_rng(seed)

    def bound_s(prediction) -> float:
        return sum(
            exchange_bounds(prediction.cluster, p.pair_bytes)[0]
            for p in prediction.phases
            if p.pair_bytes is not None and not p.is_sum
        )

    before = step.predicted()
    assert bound_s(before) <= before.step_s * (1 + 1e-9)
    more = wider(step.cluster, rng.uniform(1, 5, len(step.cluster.links)))
    assert bound_s(step.on(more)) <= bound_s(before) * (1 + 1e-9)
    lower = np.where(rng.random(step.schedule.shape) < 0.3, np.int8(0), step.schedule)
    assert bound_s(replace(step, schedule=lower).predicted()) <= bound_s(before) * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(kind=kinds, seed=seeds, factor=st.floats(1, 10))
def test_more_bandwidth_everywhere_shortens_all_messages_alike(step_on, kind, seed, factor):
    step = step_on(kind, seed)
    links = tuple(replace(k, latency_s=0.0) for k in step.cluster.links)
    here = replace(step.cluster, links=links)
    before, after = step.on(here), step.on(wider(here, np.full(len(links), factor)))
    for p, q in zip(before.phases, after.phases, strict=True):
        expected_s = p.alone_s / (1 if p.pair_bytes is None else factor)
        assert q.alone_s == pytest.approx(expected_s, rel=1e-9)


def test_with_endless_bandwidth_only_latencies_are_left(step_on):
    step = step_on("half_duplex", 5)
    here = wider(step.cluster, np.full(len(step.cluster.links), 1e15))
    for phase in step.on(here).phases:
        if phase.pair_bytes is not None and not phase.is_sum:
            expected_s = 2e-4 if phase.pair_bytes.any() else 0.0
            assert phase.duration_s == pytest.approx(expected_s, rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    num_kinds=st.integers(1, 3),
    num_waves=st.integers(2, 7),
    overlap=st.booleans(),
)
def test_waves_that_are_alike_cost_as_one_by_one(random_step, seed, num_kinds, num_waves, overlap):
    rng, shape = np.random.default_rng(seed), random_step(0).workload.shape
    partition = partition_by_heads(shape, 1)
    columns = rng.integers(0, 4, (len(partition.block), num_kinds)).astype(np.int8)
    kind = rng.integers(0, num_kinds, num_waves)
    owner = rng.integers(0, 3, num_kinds)[kind]
    samples = rng.integers(1, 3, num_kinds)[kind]
    workload = Workload(shape, partition, tuple(samples.tolist()))
    devices = tuple(
        Device(f"d{i}", float(rate), 10**9, float(rate) / 5)
        for i, rate in enumerate(rng.uniform(1e8, 1e9, 3))
    )
    network = NETWORKS["switch"]([d.name for d in devices])
    cluster = Cluster("c", devices, network.links, network.switches)
    held = Placement(3, tuple(rng.integers(0, 3, len(columns)).tolist()), tuple(owner.tolist()))
    step = deploy(workload, cluster, held, num_waves=num_waves)
    alike = simulate_step(step, columns[:, kind], overlap)
    with pytest.MonkeyPatch.context() as patch:
        for module in (
            "d2ft_sched.costs.memory",
            "d2ft_sched.costs.lanes.executed_flops",
            "sim.step",
        ):
            patch.setattr(f"{module}.wave_parts", lambda *a: [*map(replace, wave_parts(*a))])
        one_by_one = simulate_step(step, columns[:, kind], overlap)
    assert alike.step_s == one_by_one.step_s
    assert [p.start_s for p in alike.phases] == [p.start_s for p in one_by_one.phases]
    assert [p.wave for p in alike.phases] == [p.wave for p in one_by_one.phases]
    assert (alike.memory.total == one_by_one.memory.total).all()
    assert alike.wasted_flops == pytest.approx(one_by_one.wasted_flops)
