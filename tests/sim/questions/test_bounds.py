"""Critical path and what bounds a step."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.memory import DeviceMemory
from sim.network.exchange_time import channel_seconds, link_loads
from sim.prediction import Phase, Prediction
from sim.questions.bounds import (
    Bottleneck,
    ResourceKind,
    critical_path_table,
    step_bounds,
    what_bounds,
)
from sim.questions.critical_path import critical_path

MEMORY = DeviceMemory(*(np.zeros(3),) * 8)
CLUSTER = Cluster(
    "c",
    tuple(Device(n, 1e9, 10**9, 1e9) for n in "abc"),
    tuple(Link(n, "s", 100.0, 0.25) for n in "abc"),
    ("s",),
)


def phase(name, start_s, *, device_s=None, pair_bytes=None, duration_s=None, wave=0):
    if device_s is not None:
        device_s = np.array(device_s, dtype=float)
        duration_s = float(device_s.max())
    return Phase(wave, "forward", 0, name, start_s, duration_s, device_s, pair_bytes)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_bulk_synchronous_steps_are_bound_throughout(random_step, seed):
    step = random_step(seed).predicted()
    path = critical_path(step)
    chain = [p for p in step.phases if p.duration_s > 0 and not p.is_sum]
    of_chain = [s.phase for s in path if not s.phase.is_sum]
    assert of_chain == [*chain[: len(of_chain) - 1], chain[-1]]
    assert len(of_chain) == len(chain) or any(s.phase.is_sum for s in path)
    bounds = step_bounds(step)
    assert sum(b.seconds for b in bounds) == pytest.approx(step.step_s, rel=1e-9)
    table = what_bounds(step)
    assert table["bound_s"].sum() == pytest.approx(step.step_s, rel=1e-9)
    assert table["share"].sum() == pytest.approx(1)
    assert (table["bound_s"].diff().dropna() <= 0).all()
    rows = critical_path_table(step)
    np.testing.assert_allclose(rows["start_s"].to_numpy()[1:], rows["end_s"].to_numpy()[:-1])
    for bound in bounds:
        members = list(bound.bottleneck.members)
        if bound.phase.yielded_s:
            continue
        if bound.bottleneck.kind == ResourceKind.DEVICE:
            seconds = bound.phase.device_s
        elif bound.bottleneck.kind == ResourceKind.LINK:
            both = channel_seconds(step.cluster, link_loads(step.cluster, bound.phase.pair_bytes))
            seconds = np.maximum(both[::2], both[1::2])
        else:
            continue
        assert seconds[members].min() == pytest.approx(bound.seconds, rel=1e-6)
        assert seconds[members].min() == pytest.approx(seconds.max(), rel=1e-6)
        others_s = np.delete(seconds, members).max(initial=0.0)
        assert others_s == pytest.approx(bound.next_s(members), rel=1e-6, abs=1e-9 * step.step_s)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_the_critical_path_of_overlapped_waves_has_no_gap(random_step, seed):
    step = random_step(seed).predicted(overlap=True)
    path = critical_path(step)
    assert path[0].start_s == 0
    assert path[-1].end_s == step.step_s
    for before, after in pairwise(path):
        assert before.end_s == pytest.approx(after.start_s, rel=1e-9)
    assert what_bounds(step)["bound_s"].sum() == pytest.approx(step.step_s, rel=1e-9)


def test_resources_that_bind_together_and_the_next_one():
    sent = np.zeros((3, 3))
    sent[0, 1] = sent[1, 0] = 200.0
    sent[2, 0] = 100.0
    step = Prediction(
        CLUSTER,
        (
            phase("mlp lanes", 0.0, device_s=[3, 3, 1]),
            phase("mlp combine", 3.0, pair_bytes=sent, duration_s=3.5),
            phase("trunk", 6.5, device_s=[0, 0, 2]),
        ),
        0.0,
        MEMORY,
    )
    lanes, latency, links, trunk = step_bounds(step)
    assert lanes.bottleneck == Bottleneck(ResourceKind.DEVICE, (0, 1))
    assert (lanes.seconds, lanes.next_s((0, 1))) == (3, 1)
    assert latency.bottleneck == Bottleneck(ResourceKind.LATENCY)
    assert (latency.start_s, latency.seconds) == (3, 0.5)
    assert links.bottleneck.names(CLUSTER) == ("a - s",)
    assert (links.seconds, links.next_s((0,))) == (3, 2)
    assert (trunk.bottleneck.members, trunk.seconds, trunk.next_s((2,))) == ((2,), 2, 0)
    table = what_bounds(step).set_index("resource")
    assert table.loc["a, b", "share"] == pytest.approx(3 / 8.5)
    assert table.loc["a - s", "bound_s"] == 3


def test_a_half_duplex_link_is_busy_with_both_directions():
    links = tuple(replace(k, duplex="half") for k in CLUSTER.links)
    sent = np.zeros((3, 3))
    sent[0, 1] = sent[1, 2] = 100.0
    step = Prediction(
        replace(CLUSTER, links=links),
        (phase("mlp combine", 0.0, pair_bytes=sent, duration_s=2.0),),
        0.0,
        MEMORY,
    )
    (bound,) = step_bounds(step)
    assert bound.bottleneck.names(step.cluster) == ("b - s",)
    assert bound.next_s(bound.bottleneck.members) == 1


def test_walk_back_through_overlapping_waves():
    sent = np.zeros((3, 3))
    sent[0, 1] = 200.0
    step = Prediction(
        CLUSTER,
        (
            phase("trunk", 0.0, device_s=[1, 0, 0]),
            phase("mlp dispatch", 1.0, pair_bytes=sent, duration_s=2.0),
            phase("trunk", 1.0, device_s=[5, 0, 0], wave=1),
            phase("mlp lanes", 6.0, device_s=[0, 1, 0]),
            phase("mlp dispatch", 6.0, pair_bytes=sent, duration_s=4.0, wave=1),
            phase("optimizer", 10.0, device_s=[2, 1, 1], wave=1),
        ),
        0.0,
        MEMORY,
    )
    path = critical_path(step)
    assert [(s.phase.wave, s.phase.name) for s in path] == [
        (0, "trunk"),
        (1, "trunk"),
        (1, "mlp dispatch"),
        (1, "optimizer"),
    ]
    assert sum(s.end_s - s.start_s for s in path) == step.step_s == 12
