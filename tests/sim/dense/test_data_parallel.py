"""Data parallelism: shares and sets of devices beside brute force, sums beside closed forms."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable
from d2ft_sched.costs.flops import step_flops
from d2ft_sched.costs.memory import trained_parameters
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.dense.data_parallel import DataParallelSteps, gradient_buckets
from sim.dense.device_alone import device_alone
from sim.dense.memory_passes import PassMemory
from sim.dense.shares import level_shares
from sim.network.collectives import all_reduce
from sim.network.exchange_time import ExchangeTimes

LATENCY_S = 1e-3
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
    classifier_parameters=480,
)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4, 4, 4, 4))


def switch_of(speeds: list[float], bandwidth: float = 1e6, memory_bytes: int = 10**9) -> Cluster:
    names = [f"d{i}" for i in range(len(speeds))]
    network = topology.star(names, Cable(bandwidth, LATENCY_S))
    devices = tuple(
        Device(n, 1e9 * v, memory_bytes, 1e9 * v, launch_s=1e-6)
        for n, v in zip(names, speeds, strict=True)
    )
    return Cluster("switch", devices, network.links, network.switches)


def compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    return [c for c in product(range(total + 1), repeat=parts) if sum(c) == total]


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
def test_level_shares_end_as_early_as_any(num_devices, total, seed, ties):
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 3, (num_devices, total)) if ties else rng.random((num_devices, total))
    seconds = np.concatenate([np.zeros((num_devices, 1)), np.cumsum(steps, axis=1)], axis=1)
    for row, most in zip(seconds, rng.integers(0, 2 * total, num_devices), strict=True):
        row[1 + most :] = np.inf
    shares = level_shares(seconds, total)
    rows = np.arange(num_devices)
    least = min(seconds[rows, list(c)].max() for c in compositions(total, num_devices))
    if shares is None:
        assert np.isinf(least)
    else:
        assert shares.sum() == total
        assert (shares >= 0).all()
        assert seconds[rows, shares].max() == least


@pytest.mark.parametrize("lora", [None, Lora(4, 8.0)])
def test_buckets_hold_every_gradient_once(lora):
    workload = replace(WORKLOAD, lora=lora)
    buckets = dict(gradient_buckets(workload))
    assert list(buckets) == [3, 2, 1, 0] + ([] if lora else [-1])
    assert sum(buckets.values()) == trained_parameters(workload) * 4
    assert buckets[2] == buckets[1] == buckets[0]
    assert buckets[3] == (480 if lora else SHAPE.end_trunk_parameters) * 4


@pytest.mark.parametrize("num_devices", [1, 2, 3, 4])
@pytest.mark.parametrize("bandwidth", [1e4, 1e6, 1e12])
def test_sums_start_block_by_block_and_one_after_another(num_devices, bandwidth):
    cluster = switch_of([1.0, 2.0, 0.5, 1.0][:num_devices], bandwidth)
    steps = DataParallelSteps(WORKLOAD, cluster)
    shares = [16 // num_devices + (d < 16 % num_devices) for d in range(num_devices)]
    found = steps.step(range(num_devices), shares)
    runs = [device_alone(WORKLOAD, d, n) for d, n in zip(cluster.devices, shares, strict=True)]
    done_s = np.array([run.passes.forward_s[0] for run in runs])
    summed_s, times = 0.0, ExchangeTimes(cluster)
    for block, size in gradient_buckets(WORKLOAD):
        through = {3: 2, 1: 1, 0: 0}.get(block)  # the classifier's sum waits for the last block
        if through is not None:
            done_s = done_s + [run.passes.backward_block_s(0)[through] for run in runs]
        one_s = all_reduce(times, range(num_devices), size).seconds
        summed_s = max(summed_s, done_s.max()) + one_s
    expected_s = summed_s + max(run.update_s for run in runs)
    prediction = found.prediction
    assert prediction.step_s == pytest.approx(expected_s)
    gradients = trained_parameters(WORKLOAD) * 4
    assert prediction.exchange_bytes == pytest.approx(2 * (num_devices - 1) * gradients)
    assert prediction.flops == pytest.approx(
        step_flops(WORKLOAD, uniform_schedule(WORKLOAD.num_subnets, 4, Operation.FULL))
    )
    busy_s = [run.step_s for run in runs]
    np.testing.assert_allclose(prediction.device_busy_s, busy_s)
    assert prediction.step_s >= max(busy_s) * (1 - 1e-12)


def test_sums_hide_behind_backward_but_for_what_comes_last():
    steps = DataParallelSteps(WORKLOAD, switch_of([1e-3, 1e-3], bandwidth=1e8))
    found = steps.step((0, 1), (8, 8)).prediction
    last_s, first_s = (
        all_reduce(ExchangeTimes(steps.cluster), (0, 1), size)
        for _, size in gradient_buckets(WORKLOAD)[:-3:-1]
    )
    assert found.exchange_s == pytest.approx(last_s.seconds + first_s.seconds)


def test_with_one_device_it_is_that_device_alone():
    cluster = switch_of([1.0])
    found = DataParallelSteps(WORKLOAD, cluster).best()
    run = device_alone(WORKLOAD, cluster.devices[0])
    assert found is not None
    assert found.prediction.step_s == pytest.approx(run.step_s)
    assert not found.prediction.exchange_bytes
    np.testing.assert_allclose(found.prediction.peak_memory_bytes, run.memory.total)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from([0.25, 1.0, 2.0, 5.0]), min_size=1, max_size=3),
    st.sampled_from([1e5, 1e7, 1e9]),
    st.integers(1, 7),
)
def test_no_other_set_or_shares_end_backward_earlier(speeds, bandwidth, total):
    workload = replace(WORKLOAD, microbatch_samples=(1,) * total)
    steps = DataParallelSteps(workload, switch_of(speeds, bandwidth))
    found = steps.best()
    assert found is not None
    assert sum(found.shares) == total
    run_s = [run.step_s - run.update_s for run in found.runs]
    for k in range(1, len(speeds) + 1):
        for members in combinations(range(len(speeds)), k):
            shares = steps.shares(members)
            assert shares is not None
            if shares.all():
                other = steps.step(members, shares.tolist()).prediction
                assert found.prediction.step_s <= other.step_s
            for given_shares in compositions(total, k):
                if members == found.members and all(given_shares):
                    runs = steps.step(members, given_shares).runs
                    assert max(run_s) <= max(r.step_s - r.update_s for r in runs) * (1 + 1e-12)


@pytest.mark.parametrize("samples", [(16,) * 5, (4,) * 20, (1,) * 80, (79, 1), (80,)])
@pytest.mark.parametrize("heads", [1, 6])
def test_neither_the_cut_nor_the_microbatches_count(samples, heads):
    workload = Workload(SHAPE, partition_by_heads(SHAPE, heads), samples)
    found = DataParallelSteps(workload, switch_of([3.0, 1.0, 1.0], 1e9)).best()
    assert found is not None
    whole = replace(WORKLOAD, microbatch_samples=(80,))
    expected = DataParallelSteps(whole, switch_of([3.0, 1.0, 1.0], 1e9)).best()
    assert expected is not None
    assert found.prediction.step_s == expected.prediction.step_s
    assert found.shares == expected.shares


def test_slow_links_leave_it_to_one_device_and_fast_ones_use_all():
    slow = DataParallelSteps(WORKLOAD, switch_of([1.0, 2.0, 1.0], 1e3)).best()
    fast = DataParallelSteps(
        replace(WORKLOAD, microbatch_samples=(400,)), switch_of([1.0, 2.0, 1.0], 1e12)
    ).best()
    assert slow is not None
    assert fast is not None
    assert slow.members == (1,)
    several = DataParallelSteps(WORKLOAD, switch_of([1.0, 2.0, 1.0], 1e3)).best(least_members=2)
    assert several is not None
    assert len(several.members) == 2
    assert several.prediction.step_s > slow.prediction.step_s
    assert fast.members == (0, 1, 2)
    assert fast.shares == (100, 200, 100)


def test_a_device_accumulates_as_its_own_memory_asks():
    wide, narrow = switch_of([1.0, 1.0], 1e12).devices
    of_three = float(PassMemory(WORKLOAD).of(3, is_one_of_several=True).total[0])
    needed = of_three + max(size for _, size in gradient_buckets(WORKLOAD))
    small = replace(narrow, memory_bytes=int(needed))
    cluster = switch_of([1.0, 1.0], 1e12)
    workload = replace(WORKLOAD, microbatch_samples=(64,))
    steps = DataParallelSteps(workload, replace(cluster, devices=(wide, small)))
    found = steps.step((0, 1), (32, 32))
    assert [run.pass_samples for run in found.runs] == [(32,), (3,) * 10 + (2,)]
    assert not found.prediction.out_of_memory


def test_where_no_device_holds_the_model_there_is_none():
    assert DataParallelSteps(WORKLOAD, switch_of([1.0, 1.0], memory_bytes=1000)).best() is None


def test_many_devices_that_are_alike_are_used_by_all_and_a_slow_one_is_not():
    workload = replace(WORKLOAD, microbatch_samples=(40_000,))
    found = DataParallelSteps(workload, switch_of([1.0] * 8 + [1e-4], 1e12)).best()
    assert found is not None
    assert found.members == tuple(range(8))
    assert found.shares == (5_000,) * 8


def test_shares_must_add_up():
    steps = DataParallelSteps(WORKLOAD, switch_of([1.0, 1.0]))
    for shares in [(16, 0), (8, 7), (16,)]:
        with pytest.raises(InputError, match="shares of 2 devices are"):
            steps.step((0, 1), shares)
