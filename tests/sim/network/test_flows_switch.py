"""The closed form of a non-blocking switch beside the flow engine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable
from d2ft_sched.errors import InputError
from sim.network.exchange_time import exchange_bounds
from sim.network.flows import Flows, simulate_flows
from sim.network.switch import is_exact, switch_seconds


def switch(bandwidths: list[float], latencies: list[float]) -> Cluster:
    names = [f"d{i}" for i in range(len(bandwidths))]
    cables = {
        n: Cable(b, latency) for n, b, latency in zip(names, bandwidths, latencies, strict=True)
    }
    network = topology.star(names, Cable(1.0, 0.0), cables)
    devices = tuple(Device(n, 1e12, 10**10, 1e11) for n in names)
    return Cluster("switch", devices, network.links, network.switches, network.topology)


ports = st.lists(st.sampled_from([1.0, 2.0, 10.0]) | st.floats(0.1, 50.0), min_size=2, max_size=8)


@settings(deadline=None, max_examples=200)
@given(ports, st.floats(0.0, 1.0), st.floats(0.01, 100.0), st.integers(0, 2**32 - 1))
def test_equal_messages_equal_the_engine(bandwidths, latency_s, size, seed):
    cluster = switch(bandwidths, [latency_s] * len(bandwidths))
    sent = np.random.default_rng(seed).random((len(bandwidths),) * 2) < 0.6
    pair_bytes = size * sent
    off_diagonal = pair_bytes * (1 - np.eye(len(bandwidths)))
    assert is_exact(cluster, pair_bytes)
    engine = simulate_flows(cluster, Flows.from_matrix(off_diagonal)).max(initial=0.0)
    assert switch_seconds(cluster, pair_bytes) == pytest.approx(engine, rel=1e-9)


@settings(deadline=None, max_examples=100)
@given(ports, st.integers(0, 2**32 - 1))
def test_several_equal_messages_of_a_pair_as_flows_of_their_own(bandwidths, seed):
    cluster = switch(bandwidths, [0.25] * len(bandwidths))
    num_devices = len(bandwidths)
    messages = np.random.default_rng(seed).integers(0, 4, (num_devices,) * 2)
    np.fill_diagonal(messages, 0)
    flows = [(*pair, 3.0, 0.0) for pair in np.argwhere(messages) for _ in range(messages[*pair])]
    engine = simulate_flows(cluster, flows).max(initial=0.0)
    assert switch_seconds(cluster, 3.0 * messages) == pytest.approx(engine, rel=1e-9)


@settings(deadline=None, max_examples=100)
@given(ports, st.integers(0, 2**32 - 1))
def test_unequal_messages_take_at_least_as_long_and_less_than_twice(bandwidths, seed):
    cluster = switch(bandwidths, [0.0] * len(bandwidths))
    pair_bytes = np.random.default_rng(seed).uniform(0.1, 9.0, (len(bandwidths),) * 2)
    np.fill_diagonal(pair_bytes, 0.0)
    bound = float(switch_seconds(cluster, pair_bytes))
    engine = simulate_flows(cluster, Flows.from_matrix(pair_bytes)).max()
    assert bound * (1 - 1e-9) <= engine <= 2 * bound * (1 + 1e-9)


def test_the_busiest_port_may_idle_with_unequal_messages():
    cluster = switch([1.0] * 14, [0.0] * 14)
    pair_bytes = np.zeros((14, 14))
    pair_bytes[0, [2, 3]] = 1.0
    pair_bytes[1, 2] = 1.0
    pair_bytes[1, 4:13] = 0.1
    assert not is_exact(cluster, pair_bytes)
    assert switch_seconds(cluster, pair_bytes) == pytest.approx(2.0)
    finish_s = simulate_flows(cluster, Flows.from_matrix(pair_bytes))
    assert finish_s.max() == pytest.approx(2.4)


def test_a_short_message_with_a_long_latency_does_not_delay_the_others():
    cluster = switch([1.0, 1.0, 1.0], [0.0, 0.0, 5.0])
    pair_bytes = np.zeros((3, 3))
    pair_bytes[0, 1:] = 20.0, 1.0
    finish_s = simulate_flows(cluster, Flows.from_matrix(pair_bytes))
    assert switch_seconds(cluster, pair_bytes) == pytest.approx(finish_s.max()) == 21.0
    assert switch_seconds(cluster, pair_bytes.T) == pytest.approx(21.0)


@settings(deadline=None, max_examples=100)
@given(ports, st.integers(0, 2**32 - 1))
def test_with_unequal_latencies_it_is_the_least_that_any_port_takes(bandwidths, seed):
    rng = np.random.default_rng(seed)
    cluster = switch(bandwidths, rng.uniform(0.0, 1.0, len(bandwidths)).tolist())
    pair_bytes = rng.uniform(0.1, 9.0, (len(bandwidths),) * 2) * (1 - np.eye(len(bandwidths)))
    least_s, _ = exchange_bounds(cluster, pair_bytes)
    assert switch_seconds(cluster, pair_bytes) == pytest.approx(least_s, rel=1e-9)


def test_many_exchanges_at_once():
    rng = np.random.default_rng(1)
    cluster = switch([1.0, 2.0, 4.0, 4.0], [0.1, 0.2, 0.3, 0.4])
    batch = rng.uniform(0.0, 3.0, (5, 7, 4, 4))
    batch[0, 0] = 0.0
    one_by_one = [[float(switch_seconds(cluster, m)) for m in row] for row in batch]
    np.testing.assert_allclose(switch_seconds(cluster, batch), one_by_one)
    assert switch_seconds(cluster, batch)[0, 0] == 0.0
    assert is_exact(cluster, batch).shape == (5, 7)
    assert is_exact(cluster, batch)[0, 0]


def test_other_networks_are_refused():
    names = ["d0", "d1", "d2"]
    network = topology.ring(names, Cable(1.0, 0.0))
    devices = tuple(Device(n, 1e12, 10**10, 1e11) for n in names)
    ring = Cluster("ring", devices, network.links)
    with pytest.raises(InputError, match="'ring' is not one non-blocking switch"):
        switch_seconds(ring, np.ones((3, 3)))
