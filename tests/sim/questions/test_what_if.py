"""Clusters with something faster, slower or gone."""

import math

import numpy as np
import pytest

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable
from d2ft_sched.errors import InputError
from sim.questions.what_if import drop_devices, scale_bandwidth, scale_compute, scale_latency

NAMES = ["a", "b", "c", "d"]
CABLE = Cable(1e9, 1e-5, "half")


def cluster_of(network):
    devices = tuple(Device(n, 1e12, 10**9, 1e11, launch_s=1e-5) for n in NAMES)
    return Cluster("lab", devices, network.links, network.switches, network.topology)


STAR = cluster_of(topology.star(NAMES, CABLE))
RING = cluster_of(topology.ring(NAMES, CABLE))
MESH = cluster_of(topology.full_mesh(NAMES, CABLE))


def test_scaling_one_device_leaves_the_others_alone():
    scaled = scale_compute(STAR, 0.5, "b")
    assert scaled.devices[0] is STAR.devices[0]
    assert scaled.links == STAR.links
    before, after = STAR.devices[1], scaled.devices[1]
    for kind in (WorkKind.MLP_FORWARD, WorkKind.OPTIMIZER):
        work_s = before.seconds(kind, 1e9, 1e9) - before.launch_s
        slow_s = after.seconds(kind, 1e9, 1e9) - after.launch_s
        assert slow_s == pytest.approx(2 * work_s)
    everywhere = scale_compute(STAR, 0.5)
    assert {d.compute_flops_per_s for d in everywhere.devices} == {5e11}


@pytest.mark.parametrize(
    ("cluster", "name", "changed"),
    [
        (STAR, None, {0, 1, 2, 3}),
        (STAR, "switch", {0, 1, 2, 3}),
        (STAR, "b", {1}),
        (RING, "a", {0, 3}),
        (RING, "a:b", {0}),
        (RING, "a:d", {3}),
    ],
)
def test_links_by_the_names_of_their_ends(cluster, name, changed):
    wider = scale_bandwidth(cluster, 4.0, name)
    farther = scale_latency(cluster, 3.0, name)
    for index, link in enumerate(cluster.links):
        scale = 4.0 if index in changed else 1.0
        assert wider.links[index].bandwidth_bytes_per_s == scale * link.bandwidth_bytes_per_s
        assert wider.links[index].latency_s == link.latency_s
        assert wider.links[index].duplex == "half"
        scale = 3.0 if index in changed else 1.0
        assert farther.links[index].latency_s == scale * link.latency_s
    np.testing.assert_array_equal(wider.link_latency_s, cluster.link_latency_s)


def test_no_latency_at_all():
    assert not scale_latency(STAR, 0.0).link_latency_s.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: scale_bandwidth(RING, 2, "x"), "no link 'x'; it has a:b, b:c, c:d, d:a"),
        (lambda: scale_bandwidth(RING, 2, "a:c"), "no link 'a:c'; it has a:b"),
        (lambda: scale_latency(RING, 2, "x"), "no link 'x'"),
        (lambda: scale_compute(STAR, 2, "x"), "no device 'x'; it has a, b, c, d"),
        (lambda: drop_devices(STAR, ["x"]), "no device 'x'; it has a, b, c, d"),
        (lambda: drop_devices(STAR, ["switch"]), "no device 'switch'"),
        (lambda: drop_devices(STAR, NAMES), "every device is dropped"),
        (lambda: scale_bandwidth(STAR, 0), "bandwidth is scaled by 0"),
        (lambda: scale_bandwidth(STAR, math.nan), "bandwidth is scaled by nan"),
        (lambda: scale_latency(STAR, -1), "latency is scaled by -1; the factor must be 0 or more"),
        (lambda: scale_compute(STAR, math.inf), "compute is scaled by inf"),
        (lambda: drop_devices(drop_devices(RING, ["a"]), ["c"]), "cannot be reached"),
    ],
)
def test_mistakes_name_what_there_is(change, message):
    with pytest.raises(InputError) as error:
        change()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cluster", [STAR, RING, MESH], ids=lambda c: c.topology)
def test_dropped_devices_take_their_links_along(cluster):
    left = drop_devices(cluster, ["b"])
    assert [d.name for d in left.devices] == ["a", "c", "d"]
    assert all("b" not in (k.source, k.target) for k in left.links)
    assert len(left.links) == len(cluster.links) - {"star": 1, "ring": 2}.get(cluster.topology, 3)


def test_a_switch_without_links_goes_too():
    network = topology.star(NAMES, CABLE)
    alone = drop_devices(cluster_of(network), ["b", "c", "d"])
    assert alone.switches == ("switch",)
    pair = Cluster("pair", STAR.devices[:2], (CABLE.join("a", "b"), CABLE.join("b", "s")), ("s",))
    assert drop_devices(pair, ["b"]).switches == ()


def test_switches_joined_only_to_one_another_go_too():
    links = [CABLE.join(*ends) for ends in (("a", "b"), ("b", "s"), ("s", "t"))]
    pair = Cluster("pair", STAR.devices[:2], tuple(links), ("s", "t"))
    left = drop_devices(pair, ["b"])
    assert (left.links, left.switches) == ((), ())
