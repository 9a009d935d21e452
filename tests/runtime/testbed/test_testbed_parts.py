"""What a testbed is made of, told from the cluster alone: routes, interfaces, shares, packets."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.balanced import place_balanced
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from d2ft_sched.schedule.operations import Operation
from runtime.testbed import cpu_slices
from runtime.testbed.check import check_shares
from runtime.testbed.cpu_shares import Hierarchy, shares
from runtime.testbed.cpu_slices import refine_slices, restore_slices
from runtime.testbed.owner import is_stale, own_prefix
from runtime.testbed.ranks import run_ranks
from runtime.testbed.shaping import LARGEST_MTU, SMALLEST_MTU, packet_bytes
from runtime.testbed.wiring import wire
from testbed_clusters import network, star

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(ROOT.joinpath("examples/clusters").glob("*.yaml"))


@pytest.mark.parametrize(
    "cluster",
    [
        *(load_cluster(path) for path in EXAMPLES),
        network("ring", 5),
        network("ring", 4),
        network("tree", 8, devices_per_leaf=2),
        network("torus", 9, sizes=[3, 3]),
        network("fat_tree", 16, arity=4),
        network("islands", 4, islands=[["d0", "d1"], ["d2", "d3"]],
                uplink={"bandwidth_bytes_per_s": 1e7, "latency_s": 1e-4}),
    ],
    ids=lambda cluster: cluster.name,
)  # fmt: skip
def test_static_routes_lead_along_the_cluster_s_routes(cluster):
    wiring = wire(cluster)
    assert len(set(wiring.address.values())) == len(cluster.nodes)
    step = {(route.node, route.target): route.via for route in wiring.routes}
    for source, first in enumerate(cluster.devices):
        for target, last in enumerate(cluster.devices):
            nodes = [first.name]
            while nodes[-1] != last.name:
                nodes.append(step[nodes[-1], last.name])
            links = [cluster.links_directed[i] for i in cluster.route(source, target)]
            assert nodes == [first.name, *(link.target for link in links)]


def test_every_interface_joins_the_two_nodes_of_one_link():
    cluster = network("full_mesh", 4)
    cables = wire(cluster).cables
    ends = [(c.link.source, c.source_interface) for c in cables]
    ends += [(c.link.target, c.target_interface) for c in cables]
    assert len(set(ends)) == 2 * len(cluster.links) == 12


def test_half_duplex_and_ambiguous_routes_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"'d0' - 'switch' is half duplex; the testbed takes"):
        wire(network("star", 2, duplex="half"))
    ends = ["a-s", "a-r", "s-m", "r-m", "m-u", "m-v", "u-t", "v-t", "b-m"]
    two_ways_twice = Cluster(
        "two ways, twice",
        tuple(Device(name, 1e10, 10**9, 1e9) for name in "atb"),
        tuple(Link(*pair.split("-"), 1e8, 0.0) for pair in ends),
        tuple("srmuv"),
    )
    with pytest.raises(InputError, match="by different links depending on where they come from"):
        wire(two_ways_twice)


def test_shares_keep_the_relative_speeds_and_fit_the_cores():
    cluster = star(*[100] * 4, speeds=(1.0, 0.5, 1.0, 0.25))
    cores = shares(cluster)
    assert cores == pytest.approx(np.array([1.0, 0.5, 1.0, 0.25]) * cores[0])
    assert sum(cores) <= 0.65 * len(os.sched_getaffinity(0)) + 1e-9
    assert max(cores) <= 1
    assert shares(cluster, 0.2) == pytest.approx((0.2, 0.1, 0.2, 0.05))
    for wrong in (0.0, 1.5):
        with pytest.raises(InputError, match="--cores-per-unit is"):
            shares(cluster, wrong)


def test_a_share_that_the_kernel_does_not_take_is_refused():
    with pytest.raises(InputError, match=r"device 'host1' would get .* at least 0\.001"):
        shares(star(100, 100, speeds=(1.0, 1e-4)))


def test_slices_are_put_back_by_the_last_testbed(tmp_path, monkeypatch):
    setting = tmp_path / "slice"
    setting.write_text("5000\n")
    monkeypatch.setattr(cpu_slices, "_SLICE", setting)
    monkeypatch.setattr(cpu_slices, "_SLICE_BEFORE", tmp_path / "before")
    hierarchy, own = Hierarchy(tmp_path, 1), tmp_path / own_prefix()
    own.mkdir()
    for _ in range(2):
        refine_slices()
        assert setting.read_text() == "500"
    restore_slices(hierarchy)
    assert setting.read_text() == "500"
    own.rename(tmp_path / "d2ft-1-1")
    restore_slices(hierarchy)
    assert setting.read_text() == "5000\n"


def test_shares_and_ranks_without_their_group_are_one_line(tmp_path, monkeypatch):
    device = star(100).devices[0]
    testbed = SimpleNamespace(
        cores=(0.1,),
        groups=(tmp_path / "gone",),
        cluster=SimpleNamespace(devices=[device]),
        namespace={device.name: "none"},
    )
    with pytest.raises(InputError, match=f"the CPU share of '{device.name}' cannot be measured"):
        check_shares(testbed)
    monkeypatch.setattr(
        "runtime.testbed.ranks.open_namespace", lambda _: os.open("/proc/self/ns/net", os.O_RDONLY)
    )
    monkeypatch.setattr("runtime.testbed.ranks.rank_environment", lambda *_: {})
    with pytest.raises(InputError, match=f"rank of '{device.name}' cannot enter its namespace"):
        run_ranks(testbed, ["true"])


def test_packets_are_small_on_slow_links_and_few_on_fast_ones():
    sizes = [packet_bytes(star(rate, 1000).links) for rate in (1, 80, 100, 200, 1000)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (SMALLEST_MTU, LARGEST_MTU)


def test_names_tell_whether_their_process_lives():
    assert not is_stale(f"{own_prefix()}-3")
    assert not is_stale("somebody-else")
    child = subprocess.Popen(["true"])
    child.wait()
    assert is_stale(f"d2ft-{child.pid}-1-0")
    assert is_stale(f"d2ft-{os.getpid()}-1-0")


@pytest.mark.parametrize("name", ["testbed_slow_device", "testbed_slow_link"])
def test_the_example_testbeds_place_and_plan_with_less_for_the_slow_one(name):
    cluster = load_cluster(ROOT / "examples/clusters" / f"{name}.yaml")
    shape = vision_transformer_shape(
        "vit_of_four_blocks", image_size=56, patch_size=14, width=192, num_blocks=4,
        num_heads=6, mlp_hidden=768, num_classes=10,
    )  # fmt: skip
    workload = Workload(shape, partition_by_heads(shape, 1), (8,) * 4)
    placement = place_balanced(workload, cluster, every_device=True).placement
    held = np.bincount(placement.subnet_device, minlength=4)
    assert held.min() > 0
    assert held[3] == held.min()
    scores = uniform_scores(workload.num_subnets, workload.num_microbatches)
    plan = make_plan(deploy(workload, cluster, placement), scores, Budget(0.7, 0.7))
    assert (plan.schedule != Operation.SHORTCUT).any()
