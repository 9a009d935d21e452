"""The flow engine beside a slow one that does nothing but what the definition says."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable, Network
from sim.network.fair_share import fill
from sim.network.flows import Flows, simulate_flows


def fair_rates(routes: list[set[int]], bandwidth: dict[int, float]) -> list[float]:
    """Progressive filling, one link after the other."""
    left, rates = dict(bandwidth), dict.fromkeys(range(len(routes)), 0.0)
    growing = set(rates)
    while growing:
        crossing = {k: [f for f in growing if k in routes[f]] for k in left}
        share, full = min((left[k] / len(fs), k) for k, fs in crossing.items() if fs)
        for flow in crossing[full]:
            rates[flow] = share
            growing.discard(flow)
            for link in routes[flow]:
                left[link] -= share
    return [rates[f] for f in range(len(routes))]


def slow_finish_s(cluster: Cluster, flows: list[tuple[int, int, float, float]]) -> np.ndarray:
    bandwidth = dict(enumerate(cluster.link_bandwidth_bytes_per_s.tolist()))
    routes, begin = [], []
    for source, destination, _, start_s in flows:
        links = cluster.route(source, destination)
        routes.append({int(cluster.link_channel[k]) for k in links})
        begin.append(start_s + sum(cluster.link_latency_s[k] for k in links))
    left = [0.0 if f[0] == f[1] else f[2] for f in flows]
    finish, now = list(begin), 0.0
    pending = {i for i in range(len(flows)) if left[i] > 0}
    while pending:
        moving = sorted(i for i in pending if begin[i] <= now)
        rates = fair_rates([routes[i] for i in moving], bandwidth)
        ends = [now + left[i] / rate for i, rate in zip(moving, rates, strict=True)]
        later = min([*ends, *(begin[i] for i in pending if begin[i] > now)])
        for i, rate, end in zip(moving, rates, ends, strict=True):
            left[i] -= rate * (later - now)
            if end <= later * (1 + 1e-12):
                finish[i] = later
                pending.discard(i)
        now = later
    return np.array(finish)


bandwidths = st.sampled_from([1.0, 2.0, 5.0, 10.0]) | st.floats(0.1, 100.0)
latencies = st.sampled_from([0.0, 0.0, 0.1, 1.0]) | st.floats(0.0, 2.0)
cables = st.builds(Cable, bandwidths, latencies, st.sampled_from(["full", "half"]))


@st.composite
def networks(draw: st.DrawFn, names: list[str]) -> Network:
    some = draw(st.dictionaries(st.sampled_from(names), cables, max_size=3))
    half = max(1, len(names) // 2)
    builders = {
        "star": lambda: topology.star(names, draw(cables), some),
        "full_mesh": lambda: topology.full_mesh(
            names, draw(cables), {frozenset(names[:2]): draw(cables)}
        ),
        "ring": lambda: topology.ring(names, draw(cables)),
        "tree": lambda: topology.tree(
            names, draw(st.integers(1, 4)), draw(cables), draw(st.sampled_from([0.5, 1.0, 3.0]))
        ),
        "islands": lambda: topology.islands(
            [names[:half], names[half:]], draw(cables), draw(cables)
        ),
        "fat_tree": lambda: topology.fat_tree(names, 4, draw(cables)),
        "random": lambda: Network("random", tuple(draw(random_links(names)))),
    }
    return builders[draw(st.sampled_from(sorted(builders)))]()


@st.composite
def random_links(draw: st.DrawFn, names: list[str]) -> list[Link]:
    ends = {frozenset((names[i], names[draw(st.integers(0, i - 1))])) for i in range(1, len(names))}
    pairs = [frozenset(p) for p in itertools.combinations(names, 2)]
    ends |= set(draw(st.lists(st.sampled_from(pairs), max_size=4)))
    return [draw(cables).join(*sorted(e)) for e in sorted(ends, key=sorted)]


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    names = [f"d{i}" for i in range(draw(st.integers(2, 8)))]
    network = draw(networks(names))
    devices = tuple(Device(n, 1e12, 10**10, 1e11) for n in names)
    return Cluster("any", devices, network.links, network.switches, network.topology)


@st.composite
def clusters_and_flows(draw: st.DrawFn) -> tuple[Cluster, list[tuple[int, int, float, float]]]:
    cluster = draw(clusters())
    device = st.integers(0, len(cluster.devices) - 1)
    size = st.sampled_from([0.0, 1.0, 2.0, 3.0]) | st.floats(0.01, 100.0)
    start = st.sampled_from([0.0, 0.0, 1.0]) | st.floats(0.0, 10.0)
    return cluster, draw(st.lists(st.tuples(device, device, size, start), min_size=1, max_size=24))


@settings(deadline=None, max_examples=300)
@given(clusters_and_flows())
def test_finish_times_equal_those_of_the_slow_engine(case):
    cluster, flows = case
    np.testing.assert_allclose(
        simulate_flows(cluster, flows), slow_finish_s(cluster, flows), rtol=1e-8
    )


@settings(deadline=None, max_examples=100)
@given(clusters_and_flows())
def test_bytes_are_conserved_and_no_link_carries_more_than_it_can(case):
    cluster, flows = case
    num_devices = len(cluster.devices)
    moved = np.zeros(num_devices**2)
    last_end = {}

    def watch(start_s, end_s, pair, num_flows, rate):
        assert start_s <= end_s
        load = np.zeros(len(cluster.link_bandwidth_bytes_per_s))
        for p, n, r in zip(pair.tolist(), num_flows.tolist(), rate.tolist(), strict=True):
            moved[p] += n * r * (end_s - start_s)
            assert last_end.get(p, 0.0) <= start_s
            last_end[p] = end_s
            for link in cluster.route(*divmod(p, num_devices)):
                load[cluster.link_channel[link]] += n * r
        assert (load <= cluster.link_bandwidth_bytes_per_s * (1 + 1e-8)).all()

    watched = simulate_flows(cluster, flows, watch)
    asked = np.zeros(num_devices**2)
    for source, destination, size, _ in flows:
        asked[source * num_devices + destination] += size * (source != destination)
    np.testing.assert_allclose(moved, asked, rtol=1e-8)
    np.testing.assert_allclose(watched, simulate_flows(cluster, flows), rtol=1e-12)


@settings(deadline=None, max_examples=100)
@given(clusters_and_flows())
def test_no_flow_and_no_link_beats_its_lower_bound(case):
    cluster, flows = case
    finish_s = simulate_flows(cluster, flows)
    load = np.zeros(len(cluster.link_bandwidth_bytes_per_s))
    first = np.full(len(load), np.inf)
    for (source, destination, size, start_s), end_s in zip(flows, finish_s, strict=True):
        route = list(cluster.route(source, destination))
        latency_s = cluster.link_latency_s[route].sum()
        if source != destination:
            narrowest = cluster.link_bandwidth_bytes_per_s[route].min()
            assert end_s >= (start_s + latency_s + size / narrowest) * (1 - 1e-8)
        if size:
            channels = cluster.link_channel[route]
            load[channels] += size
            first[channels] = np.minimum(first[channels], start_s + latency_s)
    used = load > 0
    busy_until = first[used] + load[used] / cluster.link_bandwidth_bytes_per_s[used]
    assert finish_s.max() >= busy_until.max(initial=0.0) * (1 - 1e-8)


@settings(deadline=None, max_examples=100)
@given(clusters_and_flows(), st.randoms())
def test_the_order_of_flows_does_not_matter(case, random):
    cluster, flows = case
    order = list(range(len(flows)))
    random.shuffle(order)
    shuffled = simulate_flows(cluster, [flows[i] for i in order])
    np.testing.assert_allclose(shuffled, simulate_flows(cluster, flows)[order], rtol=1e-8)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(bandwidths, min_size=1, max_size=6),
    st.lists(
        st.tuples(st.sets(st.integers(0, 5), min_size=1), st.integers(1, 4)),
        min_size=1,
        max_size=12,
    ),
)
def test_filling_gives_every_class_a_full_link_on_which_none_is_faster(bandwidth, classes):
    capacity = np.append(bandwidth, np.inf)
    num_links = len(bandwidth)
    routes = np.full((6, len(classes)), num_links)
    for column, (links, _) in enumerate(classes):
        hops = sorted({k % num_links for k in links})
        routes[: len(hops), column] = hops
    count = np.array([float(n) for _, n in classes])
    rate = fill(routes, count, capacity)[routes].min(axis=0)
    crosses = (routes[:, :, None] == np.arange(num_links)).any(axis=0)
    load = (crosses * (rate * count)[:, None]).sum(axis=0)
    assert (load <= capacity[:-1] * (1 + 1e-9)).all()
    fastest = np.where(crosses, rate[:, None], 0.0).max(axis=0)
    full = load >= capacity[:-1] * (1 - 1e-9)
    limited = crosses & full & (rate[:, None] >= fastest * (1 - 1e-9))
    assert limited.any(axis=1).all()


@pytest.mark.parametrize(
    "network",
    [
        topology.tree([f"d{i}" for i in range(60)], 12, Cable(10.0, 0.01), oversubscription=4.0),
        topology.star([f"d{i}" for i in range(60)], Cable(10.0, 0.0, "half")),
        topology.torus([f"d{i}" for i in range(60)], (5, 4, 3), Cable(10.0, 0.02)),
        topology.fat_tree([f"d{i}" for i in range(60)], 8, Cable(10.0, 0.03)),
    ],
    ids=lambda n: n.topology,
)
def test_many_flows_equal_filling_from_zero_at_every_event(network):
    rng = np.random.default_rng(5)
    devices = tuple(Device(f"d{i}", 1e12, 10**10, 1e11) for i in range(60))
    cluster = Cluster("big", devices, network.links, network.switches, network.topology)
    source = rng.integers(0, 60, 400)
    flows = Flows(
        source,
        (source + rng.integers(1, 60, 400)) % 60,
        rng.choice([5.0, 10.0, 33.0], 400) * rng.choice([1.0, rng.uniform(0.5, 2)], 400),
        rng.choice([0.0, 0.0, 1.0, 2.5], 400),
    )
    checked = 0

    def watch(start_s, end_s, pair, num_flows, rate):
        nonlocal checked
        routes = cluster.routes(*np.divmod(pair, 60))
        table = np.full((int(np.diff(routes.offsets).max()), len(pair)), len(capacity) - 1)
        for column in range(len(pair)):
            hops = routes.links[routes.offsets[column] : routes.offsets[column + 1]]
            table[: len(hops), column] = cluster.link_channel[hops]
        level = fill(table, num_flows, capacity)
        np.testing.assert_allclose(rate, level[table].min(axis=0), rtol=1e-8)
        checked += 1

    capacity = np.append(cluster.link_bandwidth_bytes_per_s, np.inf)
    simulate_flows(cluster, flows, watch)
    assert checked > 50
