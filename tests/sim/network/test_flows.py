"""Closed forms of flows over links."""

import dataclasses

import numpy as np
import pytest

import sim
from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable, Network
from d2ft_sched.errors import InputError
from sim.network.flows import Flow, Flows, simulate_flows

CABLE = Cable(10.0, 0.0)


def names(num_devices: int) -> list[str]:
    return [f"d{i}" for i in range(num_devices)]


def cluster(network: Network, num_devices: int) -> Cluster:
    devices = tuple(Device(n, 1e12, 10**10, 1e11) for n in names(num_devices))
    return Cluster("test", devices, network.links, network.switches, network.topology)


def star(num_devices: int, cable: Cable = CABLE, **overrides: Cable) -> Cluster:
    return cluster(topology.star(names(num_devices), cable, overrides), num_devices)


def mesh(num_devices: int, cable: Cable = CABLE) -> Cluster:
    return cluster(topology.full_mesh(names(num_devices), cable), num_devices)


def check(network: Cluster, flows: list, expected: list[float]) -> None:
    np.testing.assert_allclose(simulate_flows(network, flows), expected, rtol=1e-12)


def test_one_flow_by_index_name_or_array():
    network = mesh(2, Cable(10.0, 0.5))
    assert sim.simulate_flows is simulate_flows
    check(network, [(0, 1, 100.0, 2.0)], [12.5])
    check(network, [("d0", "d1", 100, 2)], [12.5])
    check(network, [Flow("d0", 1, 100.0)], [10.5])
    arrays = Flows(np.array([0]), np.array([1]), np.array([100]), np.array([2]))
    np.testing.assert_allclose(simulate_flows(network, arrays), [12.5])
    assert simulate_flows(network, []).shape == (0,)


def test_the_narrowest_link_of_a_route_counts_and_latencies_add_up():
    network = star(3, Cable(10.0, 0.25), d2=Cable(4.0, 1.0))
    check(network, [(0, 1, 100.0, 0.0)], [10.5])
    check(network, [(0, 2, 100.0, 0.0)], [26.25])
    check(network, [(2, 0, 100.0, 0.0)], [26.25])


@pytest.mark.parametrize("num_flows", [2, 3, 7])
def test_equal_flows_over_one_link_share_it(num_flows):
    expected = [num_flows * 10.0] * num_flows
    check(mesh(2), [(0, 1, 100.0, 0.0)] * num_flows, expected)


def test_unequal_flows_over_one_link_are_processor_sharing():
    # At 30 the smallest is done, at 50 the next, then the last has the link alone.
    flows = [(0, 1, 300.0, 0.0), (0, 1, 100.0, 0.0), (0, 1, 200.0, 0.0)]
    check(mesh(2), flows, [60.0, 30.0, 50.0])


def test_disjoint_paths_do_not_disturb_each_other():
    flows = [(0, 1, 100.0, 0.0), (1, 0, 50.0, 0.0), (2, 3, 70.0, 1.0)]
    check(mesh(4), flows, [10.0, 5.0, 8.0])
    check(star(4), flows, [10.0, 5.0, 8.0])


def test_half_duplex_directions_share():
    flows = [(0, 1, 100.0, 0.0), (1, 0, 50.0, 0.0)]
    check(mesh(2, Cable(10.0, 0.0, "half")), flows, [15.0, 10.0])
    check(star(2, Cable(10.0, 0.0, "half")), flows, [15.0, 10.0])


def test_two_bottlenecks():
    # d0 and d1 send to d2, whose 6 bytes/s they share; d0 has its other 7 for d3.
    network = star(4, d2=Cable(6.0, 0.0))
    flows = [(0, 2, 30.0, 0.0), (1, 2, 30.0, 0.0), (0, 3, 70.0, 0.0)]
    check(network, flows, [10.0, 10.0, 10.0])


def test_a_flow_across_two_shared_links_gets_the_smaller_share():
    # Links a-b (1 other flow) and b-c (2 others): 10/3 on the second, the rest on the first.
    links = (Link("d0", "d1", 10.0, 0.0), Link("d1", "d2", 10.0, 0.0))
    line = cluster(Network("line", links), 3)
    flows = [
        (0, 2, 10.0, 0.0),
        (0, 1, 20.0, 0.0),
        (1, 2, 10.0, 0.0),
        (1, 2, 10.0, 0.0),
    ]
    check(line, flows, [3.0, 3.0, 3.0, 3.0])


@pytest.mark.parametrize("num_devices", [2, 5, 12])
def test_all_to_all_on_a_non_blocking_switch(num_devices):
    network = star(num_devices, Cable(10.0, 0.25))
    matrix = np.where(np.eye(num_devices), 0.0, 30.0)
    finish_s = simulate_flows(network, Flows.from_matrix(matrix))
    np.testing.assert_allclose(finish_s, 0.5 + 3.0 * (num_devices - 1))


def test_oversubscribed_tree():
    # Four devices of each leaf share an uplink of 10 bytes/s.
    network = cluster(topology.tree(names(8), 4, CABLE, oversubscription=4.0), 8)
    flows = [(i, i + 4, 25.0, 0.0) for i in range(4)]
    check(network, flows, [10.0] * 4)
    check(network, [*flows, (0, 1, 75.0, 0.0)], [10.0] * 4 + [10.0])


def test_ring_steps():
    # A step of a ring all-reduce: each to its right neighbour, all links at once.
    network = cluster(topology.ring(names(6), Cable(10.0, 0.5)), 6)
    check(network, [(i, (i + 1) % 6, 100.0, 0.0) for i in range(6)], [10.5] * 6)
    # Two to the right: every link carries two flows.
    check(network, [(i, (i + 2) % 6, 100.0, 0.0) for i in range(6)], [21.0] * 6)


def test_latency_only_and_instant():
    network = star(3, Cable(10.0, 0.25))
    flows = [(0, 1, 0.0, 3.0), (1, 1, 1e9, 4.0), (2, 2, 0.0, 0.0), (0, 2, 10.0, 0.0)]
    check(network, flows, [3.5, 4.0, 0.0, 1.5])


def test_staggered_starts():
    # Alone for 5, then shared: 50 + 5 * 10 = 100 after 15; the other has 50 left, alone.
    check(mesh(2), [(0, 1, 100.0, 0.0), (0, 1, 100.0, 5.0)], [15.0, 20.0])


def test_latency_delays_the_sharing():
    # The far flow joins only after its latency of 5: the same as a start at 5.
    links = (
        Link("d0", "d1", 10.0, 0.0),
        Link("d1", "d2", 100.0, 5.0),
    )
    line = cluster(Network("line", links), 3)
    check(line, [(0, 1, 100.0, 0.0), (0, 2, 100.0, 0.0)], [15.0, 20.0])


def test_a_chain_of_dependent_flows_adds_up():
    network = star(4, Cable(10.0, 0.25))
    at = 0.0
    for hop in range(3):
        (at,) = simulate_flows(network, [(hop, hop + 1, 100.0, at)])
    assert at == pytest.approx(3 * 10.5)


def test_an_arrival_slows_others_down_and_an_end_speeds_them_up():
    network = star(3)
    flows = [(0, 2, 100.0, 0.0), (1, 2, 20.0, 2.0)]
    # 20 alone, then 5 bytes/s until the other's 20 bytes are done at 6, then alone again.
    check(network, flows, [12.0, 6.0])


def test_units_do_not_matter():
    rng = np.random.default_rng(3)
    small = star(6, Cable(3.0, 0.01), d1=Cable(1.0, 0.02))
    large = dataclasses.replace(
        small,
        links=tuple(
            dataclasses.replace(k, bandwidth_bytes_per_s=k.bandwidth_bytes_per_s * 2.0**40)
            for k in small.links
        ),
    )
    flows = Flows.from_matrix(rng.uniform(0, 5, (6, 6)) * (1 - np.eye(6)))
    scaled = dataclasses.replace(flows, bytes=flows.bytes * 2.0**40)
    expected = simulate_flows(small, flows)
    np.testing.assert_allclose(simulate_flows(large, scaled), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ((0, 2, 1.0, 0.0), "flow 1: destination is 2; cluster 'test' has devices 0 to 1"),
        ((-1, 0, 1.0, 0.0), "flow 1: source is -1"),
        (("d7", 0, 1.0, 0.0), "cluster 'test' has no device 'd7'"),
        ((0, 1, -1.0, 0.0), "flow 1: bytes is -1.0; it must be 0 or more and finite"),
        ((0, 1, np.nan, 0.0), "flow 1: bytes is nan"),
        ((0, 1, 1.0, np.inf), "flow 1: start_s is inf"),
    ],
)
def test_impossible_flows(flow, message):
    with pytest.raises(InputError, match=message):
        simulate_flows(mesh(2), [(0, 1, 1.0, 0.0), flow])
