import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable, Network
from d2ft_sched.errors import InputError

FAST, SLOW = Cable(10.0, 0.1), Cable(1.0, 0.5)


def device(name: str) -> Device:
    return Device(name, 1e12, 10**10, 1e11)


def names(num_devices: int) -> list[str]:
    return [f"d{i}" for i in range(num_devices)]


def cluster(network: Network, num_devices: int) -> Cluster:
    devices = tuple(device(n) for n in names(num_devices))
    return Cluster("test", devices, network.links, network.switches, network.topology)


def test_star():
    star = cluster(topology.star(names(4), FAST, {"d3": SLOW}), 4)
    assert star.is_non_blocking_switch
    assert star.device_index("d2") == 2
    hops = [star.links_directed[i] for i in star.route(0, 3)]
    assert [(h.source, h.target) for h in hops] == [("d0", "switch"), ("switch", "d3")]
    assert star.route(1, 1) == ()
    bandwidth = star.path_bandwidth_bytes_per_s()
    assert np.isinf(bandwidth.diagonal()).all()
    assert bandwidth[0, 1] == 10.0
    assert bandwidth[0, 3] == bandwidth[3, 0] == 1.0
    np.testing.assert_allclose(star.path_latency_s()[0], [0.0, 0.2, 0.2, 0.6])
    np.testing.assert_array_equal(star.device_bandwidth_bytes_per_s(), [10.0, 10.0, 10.0, 1.0])


def test_half_duplex_directions_share_a_channel():
    links = (Link("d0", "d1", 4.0, 0.0, "half"), Link("d1", "d2", 4.0, 0.0))
    pair = Cluster("pair", tuple(device(n) for n in names(3)), links)
    assert pair.link_channel.tolist() == [0, 0, 2, 3]
    np.testing.assert_array_equal(pair.device_bandwidth_bytes_per_s(), [2.0, 6.0, 4.0])
    assert not cluster(topology.star(names(2), Cable(1.0, 0.0, "half")), 2).is_non_blocking_switch


def test_full_mesh_goes_directly():
    slow = frozenset(("d0", "d2"))
    mesh = cluster(topology.full_mesh(names(16), FAST, {slow: SLOW}), 16)
    assert all(len(mesh.route(a, b)) == 1 for a, b in itertools.permutations(range(16), 2))
    assert mesh.path_bandwidth_bytes_per_s()[2, 0] == 1.0
    np.testing.assert_array_equal(mesh.device_bandwidth_bytes_per_s()[:2], [141.0, 150.0])
    assert not mesh.is_non_blocking_switch


def test_tree_is_oversubscribed():
    tree = cluster(topology.tree(names(7), 3, FAST, oversubscription=2.0), 7)
    assert tree.switches == ("leaf0", "leaf1", "leaf2", "core")
    uplinks = [k for k in tree.links if k.target == "core"]
    assert [k.bandwidth_bytes_per_s for k in uplinks] == [15.0] * 3
    assert len(tree.route(0, 2)) == 2
    assert len(tree.route(0, 6)) == 4


@pytest.mark.parametrize(("num_devices", "num_links"), [(1, 0), (2, 1), (3, 3), (8, 8)])
def test_ring(num_devices, num_links):
    ring = cluster(topology.ring(names(num_devices), FAST), num_devices)
    assert len(ring.links) == num_links
    hops = (ring.path_latency_s() / 0.1).round()
    distance = np.abs(np.subtract.outer(np.arange(num_devices), np.arange(num_devices)))
    np.testing.assert_array_equal(hops, np.minimum(distance, num_devices - distance))


def test_torus_distances_are_those_of_the_grid():
    torus = cluster(topology.torus(names(24), (4, 3, 2), FAST), 24)
    grid = nx.grid_graph((2, 3, 4), periodic=True)
    places = list(itertools.product(range(4), range(3), range(2)))
    assert len(torus.links) == grid.number_of_edges()
    for a, b in itertools.product(range(24), repeat=2):
        expected = nx.shortest_path_length(grid, places[a], places[b])
        assert len(torus.route(a, b)) == expected


def test_fat_tree_spreads_destinations_over_all_upper_switches():
    fat_tree = cluster(topology.fat_tree(names(16), 4, FAST), 16)
    assert len(fat_tree.links) == 48
    assert {len(fat_tree.route(0, b)) for b in (1, 2, 15)} == {2, 4, 6}
    cores = {}
    for b in range(4, 16):
        (core,) = (
            fat_tree.links_directed[i].target
            for i in fat_tree.route(0, b)
            if fat_tree.links_directed[i].target.startswith("core")
        )
        cores[core] = cores.get(core, 0) + 1
    assert cores == {f"core{c}": 3 for c in range(4)}
    shift = [fat_tree.route(a, (a + 5) % 16) for a in range(16)]
    used = [link for route in shift for link in route]
    assert len(used) == len(set(used))


def test_partly_filled_fat_tree():
    assert cluster(topology.fat_tree(names(9), 4, FAST), 9).path_latency_s().max() < 0.7


def test_islands():
    network = topology.islands([["d0", "d1"], ["d2"]], FAST, SLOW)
    islands = cluster(network, 3)
    np.testing.assert_allclose(islands.path_latency_s()[0], [0.0, 0.2, 1.2])
    np.testing.assert_array_equal(islands.path_bandwidth_bytes_per_s()[0, 1:], [10.0, 1.0])


def test_latency_decides_between_routes_of_equal_hops():
    links = (
        Link("d0", "s0", 1.0, 0.5),
        Link("s0", "d1", 1.0, 0.5),
        Link("d0", "s1", 1.0, 0.5),
        Link("s1", "d1", 1.0, 0.499),
    )
    two_ways = Cluster("two", (device("d0"), device("d1")), links, ("s0", "s1"))
    assert two_ways.route(0, 1) == (4, 6)
    assert two_ways.route(1, 0) == (7, 5)


def test_graph_is_a_networkx_graph_with_devices_and_links():
    graph = cluster(topology.star(names(3), FAST), 3).graph
    assert sorted(graph) == ["d0", "d1", "d2", "switch"]
    assert graph.nodes["d1"]["device"].name == "d1"
    assert graph.nodes["switch"]["device"] is None
    assert graph.edges["d0", "switch"]["link"].bandwidth_bytes_per_s == 10.0


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_routes_are_shortest_and_deterministic(data):
    num_devices = data.draw(st.integers(1, 6))
    num_switches = data.draw(st.integers(0, 4))
    nodes = [*names(num_devices), *(f"s{i}" for i in range(num_switches))]
    latency = st.sampled_from([0.0, 0.25, 1.0])
    ends = {
        frozenset((nodes[i], nodes[data.draw(st.integers(0, i - 1))])) for i in range(1, len(nodes))
    }
    if len(nodes) > 1:
        pair = st.lists(st.sampled_from(nodes), min_size=2, max_size=2, unique=True)
        ends |= {frozenset(p) for p in data.draw(st.lists(pair, max_size=8))}
    links = tuple(
        Link(*sorted(pair), 1.0, data.draw(latency)) for pair in sorted(map(sorted, ends))
    )
    devices = tuple(device(n) for n in names(num_devices))
    built = Cluster("any", devices, links, tuple(nodes[num_devices:]))
    weighted = built.graph.copy()
    for _, _, attributes in weighted.edges(data=True):
        attributes["cost"] = 1000.0 + attributes["link"].latency_s
    for a, b in itertools.product(range(num_devices), repeat=2):
        route = built.route(a, b)
        at, cost = nodes[a], 0.0
        for link in (built.links_directed[i] for i in route):
            assert link.source == at
            at, cost = link.target, cost + 1000.0 + link.latency_s
        assert at == nodes[b]
        assert cost == nx.shortest_path_length(weighted, nodes[a], nodes[b], weight="cost")
        assert built.path_latency_s()[a, b] == pytest.approx(cost % 1000.0)
    assert built == Cluster("any", devices, links, tuple(nodes[num_devices:]))


def test_a_thousand_devices_on_a_switch_need_no_routes_one_by_one():
    star = cluster(topology.star(names(1024), FAST), 1024)
    source, target = np.divmod(np.arange(1024**2), 1024)
    routes = star.routes(source, target)
    np.testing.assert_array_equal(np.diff(routes.offsets), np.where(source == target, 0, 2))
    assert len(routes.links) == 2 * 1024 * 1023


@pytest.mark.parametrize(
    ("devices", "links", "switches", "message"),
    [
        ((), (), (), "has no devices"),
        (("a", "a"), (), (), "two nodes are called 'a'"),
        (("a",), (), ("a",), "two nodes are called 'a'"),
        (("a", "b"), (), (), "'b' cannot be reached from 'a'"),
        (("a", "b"), (("a", "s"),), ("s",), "'b' cannot be reached"),
        (("a", "b"), (("a", "c"),), (), "names 'c', which is no device or switch"),
        (("a", "b"), (("a", "b"), ("b", "a")), (), "two links join 'b' and 'a'"),
    ],
)
def test_impossible_clusters(devices, links, switches, message):
    with pytest.raises(InputError, match=message):
        Cluster(
            "bad",
            tuple(device(n) for n in devices),
            tuple(Link(*ends, 1.0, 0.0) for ends in links),
            switches,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "a", 1.0, 0.0), "joins a node to itself"),
        (("a", "b", 0.0, 0.0), "bandwidth_bytes_per_s is 0.0"),
        (("a", "b", float("nan"), 0.0), "bandwidth_bytes_per_s is nan"),
        (("a", "b", 1.0, -1.0), "latency_s is -1.0"),
        (("a", "b", 1.0, 0.0, "simplex"), "duplex is 'simplex'"),
    ],
)
def test_impossible_links(arguments, message):
    with pytest.raises(InputError, match=message):
        Link(*arguments)


def test_unknown_device():
    with pytest.raises(InputError, match="has no device 'switch'; it has d0, d1"):
        cluster(topology.star(names(2), FAST), 2).device_index("switch")
