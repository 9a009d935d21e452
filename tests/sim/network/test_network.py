"""Times of exchanges beside the flow engine, closed forms and bounds."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable, Network
from sim.network import exchange_time as network
from sim.network.exchange_time import (
    ExchangeTimes,
    exchange_bounds,
    exchange_seconds,
    link_loads,
)
from sim.network.flows import Flows, simulate_flows

CABLE = Cable(10.0, 0.25)
BUILDERS: dict[str, Callable[[list[str]], Network]] = {
    "star": lambda n: topology.star(n, CABLE, {n[0]: Cable(4.0, 0.25)}),
    "half_star": lambda n: topology.star(n, Cable(10.0, 0.25, "half")),
    "full_mesh": lambda n: topology.full_mesh(n, CABLE),
    "ring": lambda n: topology.ring(n, CABLE),
    "tree": lambda n: topology.tree(n, 2, CABLE, 4.0),
    "islands": lambda n: topology.islands([n[:2], n[2:]], Cable(50.0, 0.01), Cable(5.0, 1.0)),
    "fat_tree": lambda n: topology.fat_tree(n, 4, CABLE),
}
NOT_SWITCHES = sorted(set(BUILDERS) - {"star"})


def cluster(kind: str, num_devices: int) -> Cluster:
    names = [f"d{i}" for i in range(num_devices)]
    built = BUILDERS[kind](names)
    devices = tuple(Device(n, 1e12, 10**10, 1e11) for n in names)
    return Cluster(kind, devices, built.links, built.switches, built.topology)


def without_latency(network: Cluster) -> Cluster:
    return replace(network, links=tuple(replace(k, latency_s=0.0) for k in network.links))


def wider(network: Cluster, factors: np.ndarray) -> Cluster:
    links = tuple(
        replace(k, bandwidth_bytes_per_s=k.bandwidth_bytes_per_s * float(f))
        for k, f in zip(network.links, factors, strict=True)
    )
    return replace(network, links=links)


def messages_of(seed: int, num_devices: int, *, sizes: tuple[int, ...] = (0, 1, 2, 3, 7)):
    pair_bytes = np.random.default_rng(seed).choice(sizes, (num_devices, num_devices))
    np.fill_diagonal(pair_bytes, 0)
    return pair_bytes.astype(float)


def fair_seconds(network: Cluster, pair_bytes: np.ndarray) -> float:
    return float(simulate_flows(network, Flows.from_matrix(pair_bytes)).max(initial=0.0))


seeds = st.integers(0, 2**32 - 1)
numbers = st.integers(3, 7)


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(NOT_SWITCHES), numbers, seeds)
def test_an_exchange_takes_what_fair_sharing_takes(kind, num_devices, seed):
    here, pair_bytes = cluster(kind, num_devices), messages_of(seed, num_devices)
    fair_s = fair_seconds(here, pair_bytes)
    assert exchange_seconds(here, pair_bytes) == pytest.approx(fair_s, rel=1e-9)
    if pair_bytes.any():
        least_s, most_s = exchange_bounds(here, pair_bytes)
        assert least_s * (1 - 1e-9) <= fair_s <= most_s * (1 + 1e-9)


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(sorted(BUILDERS)), numbers, seeds)
def test_messages_of_one_size_need_no_engine(kind, num_devices, seed):
    here = without_latency(cluster(kind, num_devices))
    pair_bytes = messages_of(seed, num_devices, sizes=(0, 3))
    assume(pair_bytes.any())
    least_s, most_s = exchange_bounds(here, pair_bytes)
    assert least_s == pytest.approx(most_s, rel=1e-12)
    assert exchange_seconds(here, pair_bytes) == pytest.approx(
        fair_seconds(here, pair_bytes), rel=1e-9
    )


def test_what_a_device_sends_to_itself_takes_no_time():
    for kind in BUILDERS:
        here = cluster(kind, 4)
        assert exchange_seconds(here, 9.0 * np.eye(4)) == 0.0
        pair_bytes = messages_of(1, 4)
        with_own = pair_bytes + 1e6 * np.eye(4)
        assert exchange_seconds(here, with_own) == exchange_seconds(here, pair_bytes)


def test_exchanges_too_large_to_simulate_take_their_lower_bound(monkeypatch):
    here, pair_bytes = cluster("tree", 6), messages_of(2, 6)
    least_s, _ = exchange_bounds(here, pair_bytes)
    assert exchange_seconds(here, pair_bytes) > least_s
    monkeypatch.setattr(network, "MAX_SIMULATED_MESSAGES", 3)
    assert exchange_seconds(here, pair_bytes) == least_s


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(BUILDERS)), numbers, seeds)
def test_remembered_times_are_those_of_each_exchange(kind, num_devices, seed):
    here, times = cluster(kind, num_devices), ExchangeTimes(cluster(kind, num_devices))
    for pair_bytes in (messages_of(seed, num_devices), messages_of(seed + 1, num_devices)):
        for asked in (pair_bytes, pair_bytes.T, pair_bytes):
            assert times.seconds(asked) == pytest.approx(exchange_seconds(here, asked), rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(BUILDERS)), numbers, seeds)
def test_every_link_carries_the_bytes_of_the_pairs_that_cross_it(kind, num_devices, seed):
    here, pair_bytes = cluster(kind, num_devices), messages_of(seed, num_devices)
    expected = np.zeros(len(here.links_directed))
    for source, target in np.argwhere(pair_bytes):
        for link in here.route(int(source), int(target)):
            expected[link] += pair_bytes[source, target]
    loads = link_loads(here, pair_bytes)
    np.testing.assert_allclose(loads, expected)
    for device, name in enumerate(d.name for d in here.devices):
        leaving = [k for k, link in enumerate(here.links_directed) if link.source == name]
        arriving = [k for k, link in enumerate(here.links_directed) if link.target == name]
        balance = loads[leaving].sum() - loads[arriving].sum()
        assert balance == pytest.approx(pair_bytes[device].sum() - pair_bytes[:, device].sum())


@settings(deadline=None, max_examples=120)
@example("ring", 6, 3806)
@given(st.sampled_from(sorted(BUILDERS)), numbers, seeds)
def test_bounds_fall_with_bandwidth_and_with_bytes(kind, num_devices, seed):
    here, pair_bytes = cluster(kind, num_devices), messages_of(seed, num_devices)
    assume(pair_bytes.any())
    rng = np.random.default_rng(seed)
    bounds = np.array(exchange_bounds(here, pair_bytes)) * (1 + 1e-9)
    more = wider(here, rng.uniform(1, 3, len(here.links)))
    assert (exchange_bounds(more, pair_bytes) <= bounds).all()
    fewer = pair_bytes * rng.choice([0.0, 0.5, 1.0], pair_bytes.shape)
    if fewer.any():
        assert (exchange_bounds(here, fewer) <= bounds).all()


@settings(deadline=None, max_examples=60)
@given(numbers, seeds)
def test_a_switch_never_takes_longer_with_bandwidth_or_with_fewer_bytes(num_devices, seed):
    here, pair_bytes = cluster("star", num_devices), messages_of(seed, num_devices)
    rng = np.random.default_rng(seed)
    seconds = exchange_seconds(here, pair_bytes) * (1 + 1e-9)
    more = wider(here, rng.uniform(1, 3, len(here.links)))
    assert exchange_seconds(more, pair_bytes) <= seconds
    fewer = pair_bytes * rng.choice([0.0, 0.5, 1.0], pair_bytes.shape)
    assert exchange_seconds(here, fewer) <= seconds


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(BUILDERS)), numbers, seeds, st.floats(1.0, 10.0))
def test_twice_the_bandwidth_everywhere_halves_the_time(kind, num_devices, seed, factor):
    here, pair_bytes = without_latency(cluster(kind, num_devices)), messages_of(seed, num_devices)
    scaled = wider(here, np.full(len(here.links), factor))
    expected = exchange_seconds(here, pair_bytes) / factor
    assert exchange_seconds(scaled, pair_bytes) == pytest.approx(expected, rel=1e-9)


def test_fair_sharing_may_take_longer_without_one_of_the_messages():
    # d0's large message to d1 loses 2.5 bytes/s to its message for d2, once d1's own message no
    # longer takes half of the uplink of 5 bytes/s.
    here = without_latency(cluster("tree", 3))
    pair_bytes = np.array([[0.0, 3.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    assert exchange_seconds(here, pair_bytes) == pytest.approx(0.4)
    pair_bytes[1, 2] = 0.0
    assert exchange_seconds(here, pair_bytes) == pytest.approx(0.45)
    assert exchange_bounds(here, pair_bytes)[0] == pytest.approx(0.4)
