"""The search over ways beside brute force, its estimates beside the simulator."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from sim.ways.bound import least_step_s
from sim.ways.candidates import as_candidate, candidate
from sim.ways.estimate.load import dense_load, load_of
from sim.ways.estimate.steps import WaySteps
from sim.ways.fewer import fewer_samples
from sim.ways.search import best_dense, best_replicas, search_ways, way_of
from sim.ways.way import WayKind, kind_of

SHAPE = vision_transformer_shape(
    "tiny", image_size=24, patch_size=8, width=48, num_blocks=3, num_heads=6, mlp_hidden=96,
    num_classes=10,
)  # fmt: skip
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4, 4, 4, 4))


def devices(speeds: list[float], memory_bytes: float = 1e9) -> tuple[Device, ...]:
    return tuple(
        Device(f"d{i}", 1e9 * v, int(memory_bytes), 1e9 * v, launch_s=1e-6)
        for i, v in enumerate(speeds)
    )


def switch_of(speeds: list[float], bandwidth: float = 1e6, memory_bytes: float = 1e9) -> Cluster:
    some = devices(speeds, memory_bytes)
    network = topology.star([d.name for d in some], Cable(bandwidth, 1e-5))
    return Cluster("switch", some, network.links, network.switches)


def islands_of(sizes: tuple[int, ...], inside: float, between: float) -> Cluster:
    some = devices([1.0] * sum(sizes))
    names = iter(d.name for d in some)
    groups = [[next(names) for _ in range(size)] for size in sizes]
    network = topology.islands(groups, Cable(inside, 1e-6), Cable(between, 1e-5))
    return Cluster("islands", some, network.links, network.switches)


def shares_of(total: int, parts: int) -> list[tuple[int, ...]]:
    return [c for c in product(range(1, total + 1), repeat=parts) if sum(c) == total]


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.sampled_from([0.25, 1.0, 2.0, 5.0]), min_size=1, max_size=3),
    st.sampled_from([1e6, 1e7, 1e8, 1e9]),
    st.sampled_from([None, Lora(4, 8.0)]),
    st.sampled_from([(2, 2, 3), (8,)]),
)
def test_no_set_of_devices_and_no_shares_are_faster(speeds, bandwidth, lora, samples):
    workload = replace(WORKLOAD, microbatch_samples=samples, lora=lora)
    steps = WaySteps(workload, switch_of(speeds, bandwidth))
    load = dense_load(workload)
    least = min(
        steps.priced(tuple((d,) for d in members), shares, load).step_s
        for k in range(1, len(speeds) + 1)
        for members in combinations(range(len(speeds)), k)
        for shares in shares_of(sum(samples), k)
    )
    found = best_dense(search_ways(workload, steps.cluster))
    assert found.dense_step_s <= least * (1 + 1e-9)
    assert sum(found.samples) == sum(samples)


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=2, max_size=3),
    st.sampled_from([1e6, 3e7, 1e9]),
    st.sampled_from([1.2e6, 1.6e6, 1e9]),
)
@example([5.0, 2.0], 3e7, 1.5e6)  # last passes are short, and hide little of the sums
def test_no_other_shares_of_the_same_devices_are_faster(speeds, bandwidth, memory_bytes):
    workload = replace(WORKLOAD, microbatch_samples=(12,))
    steps = WaySteps(workload, switch_of(speeds, bandwidth, memory_bytes))
    load, groups = dense_load(workload), tuple((d,) for d in range(len(speeds)))
    found = steps.level(groups, load)
    priced = (steps.priced(groups, shares, load).step_s for shares in shares_of(12, len(speeds)))
    least = min(priced)
    assert found.step_s <= least * (1 + 1e-9) if np.isfinite(least) else found is None


def partitions(members: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
    if not members:
        return [[]]
    first, rest = members[0], members[1:]
    found = list(partitions(rest))
    for k in range(len(rest) + 1):
        for others in combinations(rest, k):
            left = tuple(d for d in rest if d not in others)
            found += [[(first, *others), *more] for more in partitions(left)]
    return found


@pytest.mark.parametrize("between", [1e6, 1e8])
@pytest.mark.parametrize("inside", [1e7, 1e10])
@pytest.mark.parametrize("samples", [(4,) * 4, (2,)])
def test_no_grouping_is_faster(samples, inside, between):
    workload = replace(WORKLOAD, microbatch_samples=samples)
    cluster = islands_of((2, 2, 1), inside, between)
    steps, load = WaySteps(workload, cluster), dense_load(workload)
    best = best_replicas(steps, load)[0]
    least = min(
        found.step_s
        for groups in partitions(tuple(range(5)))
        if groups and (found := steps.level(tuple(sorted(groups)), load)) is not None
    )
    assert best.step_s <= 1.01 * least


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from([0.25, 1.0, 2.0]), min_size=1, max_size=3),
    st.sampled_from([1e6, 1e8]),
    st.sampled_from([None, Lora(4, 8.0)]),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.integers(3, 16),
    st.sampled_from([1e9, 1.5e6]),
)
def test_estimates_of_whole_copies_are_what_the_simulator_says(
    speeds, bandwidth, lora, trains, number, memory_bytes
):
    workload = replace(WORKLOAD, lora=lora)
    steps = WaySteps(workload, switch_of(speeds, bandwidth, memory_bytes))
    groups = tuple((d,) for d in range(len(speeds)))
    trained = np.array(trains)[workload.partition.block]
    found = steps.level(groups, load_of(workload, number, trained))
    if found is None:
        return
    made = candidate(steps, found)
    assert made.step_s == pytest.approx(found.step_s, rel=0.02)
    assert made.priced.fits
    assert sum(made.samples) == number
    assert made.workload.samples.sum() == 16
    assert max(made.workload.microbatch_samples) <= max(4, 16 - number)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.sampled_from([0.25, 1.0, 2.0]), min_size=1, max_size=3),
    st.sampled_from([1e6, 1e8]),
    st.lists(st.booleans(), min_size=WORKLOAD.num_subnets, max_size=WORKLOAD.num_subnets),
    st.integers(3, 16),
)
def test_heads_that_rest_alone_cost_what_is_estimated_and_their_slices(
    speeds, bandwidth, trains, number
):
    steps = WaySteps(WORKLOAD, switch_of(speeds, bandwidth))
    groups = tuple((d,) for d in range(len(speeds)))
    found = steps.level(groups, load_of(WORKLOAD, number, np.array(trains)))
    assert found is not None
    assert 1 - 1e-9 <= candidate(steps, found).step_s / found.step_s <= 1.5


@pytest.mark.parametrize("between", [1e6, 1e8])
def test_sums_that_share_a_link_wait_for_one_another(between):
    steps = WaySteps(WORKLOAD, islands_of((2, 2, 2), 1e10, between))
    found = steps.level(((0, 1), (2, 3), (4, 5)), dense_load(WORKLOAD))
    assert all(len(group) == 2 for group in found.groups)
    assert found.step_s == pytest.approx(way_of(steps, found).dense_step_s, rel=0.05)


@settings(deadline=None, max_examples=10)
@example([0.25, 1.0, 1.0, 5.0], 1e8, 1e9)  # hybrids that end on the same devices
@given(
    st.lists(st.sampled_from([0.25, 1.0, 2.0, 5.0]), min_size=2, max_size=4),
    st.sampled_from([1e6, 1e8, 1e9]),
    st.sampled_from([5e5, 8e5, 1e9]),
)
def test_ways_are_called_what_they_are_and_each_stands_once(speeds, bandwidth, memory_bytes):
    workload = replace(WORKLOAD, partition=partition_by_heads(SHAPE, 3))
    found = search_ways(workload, switch_of(speeds, bandwidth, memory_bytes))
    groups = [way.groups for way in found.ways]
    assert len(set(groups)) == len(groups)
    for way in found.ways:
        assert way.name == kind_of(way.groups)
        again = as_candidate(found.steps, way)
        assert again.groups == way.groups
        assert again.step_s == way.dense_step_s


def test_what_fits_no_device_is_cut():
    cluster = switch_of([1.0, 1.0, 1.0], 1e8, memory_bytes=8e5)
    found = search_ways(WORKLOAD, cluster)
    best = best_dense(found)
    assert best.name == WayKind.CUT
    assert best.fits
    assert (best.peak_memory_bytes <= 8e5).all()
    assert {way.name for way in found.ways} == {WayKind.CUT}


def test_what_fits_nowhere_is_said():
    said = r"does not fit its 0.0002 GB of memory, neither on one device nor cut over several"
    with pytest.raises(InputError, match=said):
        best_dense(search_ways(WORKLOAD, switch_of([1.0, 1.0], memory_bytes=1e5)))


@pytest.mark.parametrize("bandwidth", [1e6, 1e9])
def test_no_way_beats_the_bound(bandwidth):
    found = search_ways(WORKLOAD, switch_of([1.0, 0.5, 2.0, 2.0], bandwidth))
    assert 0 < found.lower_bound_s < best_dense(found).dense_step_s
    steps_s = [way.dense_step_s for way in found.ways]
    assert steps_s == sorted(steps_s)


def test_the_bound_is_reached_where_nothing_but_lanes_takes_time():
    cluster = switch_of([1.0])
    fast_memory = (replace(cluster.devices[0], memory_bandwidth_bytes_per_s=1e15, launch_s=0.0),)
    found = search_ways(WORKLOAD, replace(cluster, devices=fast_memory))
    trunk = 16 * (2 * SHAPE.embed_flops + 3 * SHAPE.classifier_flops) / 1e9
    assert found.lower_bound_s == pytest.approx(best_dense(found).dense_step_s - trunk, rel=1e-3)


@pytest.mark.parametrize("times_slower", [1e6, 1e24, 1e36])
def test_a_device_of_no_use_leaves_the_bound_where_it_was(times_slower):
    bound_s = least_step_s(WORKLOAD, switch_of([1.0, 0.6]))
    with_slow = least_step_s(WORKLOAD, switch_of([1.0, 0.6, 1 / times_slower]))
    assert with_slow == pytest.approx(bound_s, rel=1e-5)


def test_only_the_kinds_asked_for():
    cluster = switch_of([1.0, 1.0], 1e9)
    for kind in (WayKind.ONE_DEVICE, WayKind.DATA_PARALLEL, WayKind.CUT):
        assert {way.name for way in search_ways(WORKLOAD, cluster, kinds=[kind]).ways} == {kind}
    with pytest.raises(InputError, match="way is 'tensor'; it must be one of one device, data"):
        search_ways(WORKLOAD, cluster, kinds=["tensor"])


def test_fewer_samples_have_a_best_way_of_their_own():
    cluster = switch_of([1.0, 1.0], 2e7)
    whole, part = search_ways(WORKLOAD, cluster), fewer_samples(WORKLOAD, cluster, 0.26)
    assert sum(part.samples) == 4
    assert best_dense(whole).name == WayKind.DATA_PARALLEL
    assert part.dense_step_s < best_dense(whole).dense_step_s
    steps = whole.steps
    for groups in (((0,),), ((0,), (1,))):
        found = steps.level(groups, dense_load(WORKLOAD, 4))
        assert found is not None
        assert part.dense_step_s <= way_of(steps, found).dense_step_s
    for fraction in (0, 1.1):
        with pytest.raises(InputError, match="fraction of samples"):
            fewer_samples(WORKLOAD, cluster, fraction)


def test_a_replica_runs_in_the_passes_that_its_memory_asks_for():
    steps = WaySteps(WORKLOAD, switch_of([1.0], memory_bytes=1.4e6))
    found = steps.level(((0,),), dense_load(WORKLOAD))
    assert found is not None
    way = way_of(steps, found)
    assert way.fits
    assert way.replicas[0].num_waves > 1
    waves = np.array_split(way.workload.samples, way.replicas[0].num_waves)
    assert np.ptp([wave.sum() for wave in waves]) <= 1
