"""What a better resource would do, against the step simulated with it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.questions.bounds import Bottleneck, ResourceKind, what_bounds
from sim.questions.sensitivity import improved, sensitivities
from sim.questions.what_if import scale_compute

seeds = st.integers(0, 2**32)

CUT_ANEW = 1e-2
"""Of a step, what it may be longer on a faster device, whose lanes are cut anew: for the fewest
seconds forward and backward together, while others may wait for one of these."""


@settings(deadline=None, max_examples=16)
@given(seeds, st.sampled_from([0.0, 1e-4]), st.booleans())
def test_gains_and_saturation_of_bulk_synchronous_steps(random_step, seed, launch_s, alike):
    step = random_step(seed, launch_s=launch_s, duplexes=["full"])
    no_sums = replace(step.workload.shape, trunk_parameters=0)
    step = replace(step, workload=replace(step.workload, shape=no_sums))
    if alike:
        links = tuple(replace(link, latency_s=2e-4) for link in step.cluster.links)
        step = replace(step, cluster=replace(step.cluster, links=links))
    before = step.predicted()

    def step_s(bottleneck, factor):
        return step.on(improved(step.cluster, bottleneck, factor)).step_s

    for found in sensitivities(before, step.on):
        of = found.bottleneck
        assert found.step_s == step_s(of, 2.0)
        longer = CUT_ANEW if of.kind == ResourceKind.DEVICE else 1e-9
        assert found.unlimited_step_s <= found.step_s * (1 + longer)
        assert found.step_s <= before.step_s * (1 + longer)
        assert 1 <= found.first_saturation <= found.last_saturation
        if np.isfinite(found.last_saturation):
            beyond = step_s(of, 1.001 * found.last_saturation)
            assert beyond == pytest.approx(found.unlimited_step_s, rel=1e-6)
        if of.kind != ResourceKind.DEVICE and not alike:
            continue
        if np.isfinite(found.last_saturation):
            not_yet = step_s(of, 1 + 0.99 * (found.last_saturation - 1))
            # On a faster device lane groups may be cut anew, and the step get shorter at once.
            assert not_yet >= found.unlimited_step_s * (1 - 1e-9)
        factor = min(found.first_saturation, 3.0)
        saved_s = found.bound_s * (1 - 1 / factor)
        if of.kind == ResourceKind.DEVICE and launch_s:
            assert step_s(of, factor) >= (before.step_s - saved_s) * (1 - 1e-9)
        else:
            assert step_s(of, factor) == pytest.approx(before.step_s - saved_s, rel=1e-9)


def test_bottlenecks_come_first_then_everything_together(random_step):
    step = random_step(5)
    prediction = step.predicted()
    found = sensitivities(prediction, step.on, max_bottlenecks=3)
    own_s = [f.bound_s for f in found[:3]]
    assert own_s == sorted(own_s, reverse=True)
    assert own_s[0] >= what_bounds(prediction)["bound_s"].max()
    num_devices = len(step.cluster.devices)
    everything = [
        Bottleneck(kind, tuple(range(num_devices)))
        for kind in (ResourceKind.DEVICE, ResourceKind.LINK)
    ]
    assert [f.bottleneck for f in found[3:]] == everything
    assert all(f.last_saturation == np.inf for f in found[3:])


def test_equal_devices_are_one_bottleneck_and_no_gain_one_by_one(random_step):
    step = random_step(11, num_devices=2)
    first, second = step.cluster.devices
    twins = replace(step.cluster, devices=(first, replace(first, name=second.name)))
    workload = replace(step.workload, microbatch_samples=(4, 4))
    even = replace(
        step,
        workload=workload,
        cluster=twins,
        placement=place_round_robin(workload.partition, 2, 2),
        schedule=uniform_schedule(workload.num_subnets, 2, Operation.FULL),
        num_waves=1,
    )
    before = even.predicted()
    found = {f.bottleneck: f for f in sensitivities(before, even.on)}
    both = found[Bottleneck(ResourceKind.DEVICE, (0, 1))]
    assert not any(len(b.members) == 1 for b in found if b.kind == ResourceKind.DEVICE)
    assert both.step_s == pytest.approx(before.step_s - both.bound_s / 2)
    alone = even.on(scale_compute(twins, 2.0, first.name))
    assert alone.step_s == pytest.approx(before.step_s)


def test_no_saturation_is_told_where_a_latency_lets_more_bandwidth_gain_past_it(random_step):
    step = random_step(3, num_devices=3)
    workload = replace(step.workload, microbatch_samples=(4,))
    size = float(workload.activation_bytes[0])
    names = [device.name for device in step.cluster.devices]
    slow, quick = Link(names[0], names[1], size, 0.5), Link(names[0], names[2], size / 0.9, 0.0)
    mesh = replace(
        step, workload=workload, num_waves=1,
        cluster=Cluster("mesh", step.cluster.devices, (slow, quick)),
        placement=Placement(3, (1, 2, 1, 2) * 2, (0,)),
        schedule=uniform_schedule(8, 1, Operation.FULL),
    )  # fmt: skip
    found = {f.bottleneck: f for f in sensitivities(mesh.predicted(), mesh.on)}
    of_slow = found[Bottleneck(ResourceKind.LINK, (0,))]
    assert of_slow.first_saturation == pytest.approx(1 / 0.9)
    assert of_slow.last_saturation == np.inf


@settings(deadline=None, max_examples=8)
@given(seeds)
def test_overlapped_steps_are_simulated_overlapped(random_step, seed):
    step = random_step(seed)
    before = step.predicted(overlap=True)
    found = sensitivities(before, lambda cluster: step.on(cluster, overlap=True))
    all_devices = next(f for f in found if len(f.bottleneck.members) == len(step.cluster.devices))
    assert all_devices.bottleneck.kind == ResourceKind.DEVICE
    twice = step.on(scale_compute(step.cluster, 2.0), overlap=True)
    assert all_devices.step_s == twice.step_s
