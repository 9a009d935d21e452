"""The testbed for real where this machine allows it: as root, with iproute2."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from d2ft_sched.capacity import Budget
from d2ft_sched.cluster import Cluster, Link
from d2ft_sched.cluster_file import cluster_from_dict, load_cluster
from d2ft_sched.device import Device
from d2ft_sched.errors import InputError
from d2ft_sched.model_shape import vision_transformer_shape
from d2ft_sched.operations import Operation
from d2ft_sched.partition import partition_by_heads
from d2ft_sched.place_balanced import place_balanced
from d2ft_sched.planning import make_plan
from d2ft_sched.scores import uniform_scores
from d2ft_sched.workload import Workload
from runtime.testbed.check import check_links, check_shares
from runtime.testbed.commands import missing_requirements, require_testbed
from runtime.testbed.cpu_shares import find_hierarchy, shares
from runtime.testbed.namespaces import create_namespace, inside, namespace_names
from runtime.testbed.owner import is_stale, own_prefix
from runtime.testbed.shaping import LARGEST_MTU, SMALLEST_MTU, packet_bytes
from runtime.testbed.testbed import open_testbed
from runtime.testbed.wiring import wire

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.joinpath("examples/clusters").glob("*.yaml"))
LACKING = missing_requirements()


def no_groups() -> str:
    try:
        find_hierarchy()
    except InputError as error:
        return str(error)
    return ""


needs_testbed = pytest.mark.skipif(
    bool(LACKING), reason=f"the testbed needs {' and '.join(LACKING)}"
)
needs_groups = pytest.mark.skipif(bool(no_groups()), reason=no_groups())


def star(*mbit_per_s: float, speeds: tuple[float, ...] = (), latency_s: float = 0.0) -> Cluster:
    devices = tuple(
        Device(f"host{i}", 1e10 * speed, 10**9, 1e9)
        for i, speed in enumerate(speeds or (1.0,) * len(mbit_per_s))
    )
    links = tuple(
        Link(device.name, "switch", rate * 1e6 / 8, latency_s)
        for device, rate in zip(devices, mbit_per_s, strict=True)
    )
    return Cluster("tried here", devices, links, ("switch",), "star")


def network(kind: str, num_devices: int, **fields: object) -> Cluster:
    device = {
        "compute_flops_per_s": 1e10,
        "memory_bytes": 10**9,
        "memory_bandwidth_bytes_per_s": 1e9,
    }
    cable = {"bandwidth_bytes_per_s": 1e8, "latency_s": 1e-5}
    return cluster_from_dict(
        {
            "name": kind,
            "devices": [{"name": "d", "count": num_devices, **device}],
            "network": {"kind": kind, **cable, **fields},
        }
    )


def cluster_file(tmp_path: Path, num_devices: int = 3) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(
        f"""
name: tried here
devices:
  - {{name: host, count: {num_devices}, compute_flops_per_s: 1e10, memory_bytes: 1 GB,
     memory_bandwidth_bytes_per_s: 1 GB/s}}
network: {{kind: star, bandwidth_bytes_per_s: 100 Mbit/s, latency_s: 0}}
"""
    )
    return path


def start(cluster: Path, command: str, *options: str) -> subprocess.Popen[str]:
    """``d2ft testbed`` with a shell command, in a process of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "analysis.cli", "testbed", "--cluster", str(cluster)),
            *("--no-cpu-shares", *options, "--", "bash", "-c", command),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def leftovers(pid: int) -> list[str]:
    """Namespaces and control groups that the testbed of a process has, or has left behind."""
    names = namespace_names() + ([] if no_groups() else find_hierarchy().names())
    return [name for name in names if name.startswith(f"d2ft-{pid}-")]


def wait_for(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (reached := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(reached)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_without_root_one_line_says_so():
    os.seteuid(65534)
    try:
        with pytest.raises(InputError, match=r"^the testbed needs root"):
            require_testbed()
    finally:
        os.seteuid(0)


@needs_testbed
def test_links_have_their_bandwidth_in_both_directions():
    with open_testbed(star(400, 50), cpu_shares=False) as testbed:
        checks = check_links(testbed)
    assert [(c.source, c.target) for c in checks[:2]] == [
        ("host0", "switch"),
        ("switch", "host0"),
    ]
    for check in checks:
        assert 0.5 < check.bytes_per_s / check.asked_bytes_per_s < 1.05
        assert check.message_s > 0.9 * check.asked_message_s


@needs_testbed
def test_messages_cross_switches_and_arrive_whole():
    cluster = network(
        "islands", 3, islands=[["d0", "d1"], ["d2"]],
        uplink={"bandwidth_bytes_per_s": 1e7, "latency_s": 0},
    )  # fmt: skip
    message = np.random.default_rng(0).bytes(1 << 17)
    with open_testbed(cluster, cpu_shares=False) as testbed:
        address = (testbed.wiring.address["d2"], 5000)
        with inside(testbed.namespace["d2"]):
            listener = socket.create_server(address)
        with inside(testbed.namespace["d0"]):
            sender = socket.create_connection(address, timeout=30)
        with listener, sender:
            receiver, peer = listener.accept()
            with receiver:
                sender.sendall(message)
                sender.shutdown(socket.SHUT_WR)
                assert receiver.makefile("rb").read() == message
        assert peer[0] == testbed.wiring.address["d0"]


@needs_testbed
def test_latency_is_that_of_the_file_where_the_kernel_can_delay():
    with open_testbed(star(400, 400, latency_s=5e-3), cpu_shares=False) as testbed:
        if not testbed.has_latency:
            pytest.skip("this kernel cannot delay packets (netem)")
        for check in check_links(testbed):
            assert check.latency_s > 0.9 * check.asked_latency_s


@needs_testbed
@needs_groups
def test_busy_devices_get_no_more_than_their_share():
    cluster = star(100, 100, speeds=(1.0, 0.4))
    with open_testbed(cluster, cores_per_unit=0.3) as testbed:
        checks = check_shares(testbed)
    assert [check.asked_cores for check in checks] == pytest.approx([0.3, 0.12])
    for check in checks:
        assert 0 < check.cores < 1.1 * check.asked_cores


@needs_testbed
def test_nothing_is_left_after_an_error():
    def fail() -> None:
        with open_testbed(star(100, 100), cpu_shares=False):
            assert len(leftovers(os.getpid())) == 3
            raise ZeroDivisionError

    assert leftovers(os.getpid()) == []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert leftovers(os.getpid()) == []


@needs_testbed
def test_a_link_that_cannot_be_made_is_one_line_and_leaves_nothing():
    with (
        pytest.raises(InputError, match=r"^the testbed cannot run 'tc .* tbf rate"),
        open_testbed(star(1e-9, 100), cpu_shares=False),
    ):
        pass
    assert leftovers(os.getpid()) == []


@needs_testbed
def test_ranks_see_what_torchrun_gives(tmp_path):
    names = "RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT GLOO_SOCKET_IFNAME"
    names += " OMP_NUM_THREADS D2FT_DEVICE_NAME"
    values = " ".join(f"${name}" for name in names.split())
    launcher = start(cluster_file(tmp_path), f"echo {values}; ip -o -4 addr show eth0", "--verbose")
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, err
    first, address = out.splitlines()
    assert first == "0 3 0 10.213.0.1 29500 eth0 1 host0"
    assert "10.213.0.1/32" in address
    assert "host1: 1 3 0 10.213.0.1 29500 eth0 1 host1" in err
    assert "host2: 2 3 0 10.213.0.1 29500 eth0 1 host2" in err
    assert "host1: " not in out


@needs_testbed
def test_the_first_failing_rank_ends_the_others_and_gives_the_exit_code(tmp_path):
    command = "if [ $RANK = 1 ]; then sleep 1; echo so it goes >&2; exit 7; fi; sleep 1000"
    launcher = start(cluster_file(tmp_path), command)
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 7
    assert "host1: so it goes" in err
    assert "host1 ended with exit code 7" in err
    assert leftovers(launcher.pid) == []


@needs_testbed
def test_a_rank_that_does_not_listen_is_killed_when_another_fails(tmp_path):
    command = "[ $RANK = 2 ] && kill -9 $$; trap '' TERM; while true; do sleep 1; done"
    launcher = start(cluster_file(tmp_path), command)
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 128 + signal.SIGKILL, err
    assert leftovers(launcher.pid) == []


@needs_testbed
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_is_passed_on_and_everything_removed(tmp_path, number):
    command = (
        f"trap 'touch {tmp_path}/ended$RANK; exit 0' INT TERM; touch {tmp_path}/began$RANK;"
        "while true; do sleep 0.1; done"
    )
    launcher = start(cluster_file(tmp_path), command)
    assert wait_for(lambda: len(list(tmp_path.glob("began*"))) == 3)
    assert len(leftovers(launcher.pid)) == 4
    launcher.send_signal(number)
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 128 + number, err
    assert len(list(tmp_path.glob("ended*"))) == 3
    assert leftovers(launcher.pid) == []


@needs_testbed
def test_what_a_killed_testbed_leaves_is_removed_by_the_next(tmp_path):
    pid_file = tmp_path / "pid"
    launcher = start(cluster_file(tmp_path), f"[ $RANK = 1 ] && echo $$ > {pid_file}; sleep 1000")
    assert wait_for(lambda: pid_file.exists() and pid_file.read_text())
    launcher.kill()
    launcher.communicate(timeout=120)
    assert len(leftovers(launcher.pid)) == 4
    rank = Path("/proc", pid_file.read_text().strip())
    assert wait_for(lambda: not rank.exists())
    with open_testbed(star(100, 100), cpu_shares=False):
        assert leftovers(launcher.pid) == []


@needs_testbed
@needs_groups
def test_a_stale_control_group_is_removed_too(tmp_path):
    name = "d2ft-1-1"
    hierarchy = find_hierarchy()
    hierarchy.create(name, [0.5])
    create_namespace(f"{name}-0")
    with open_testbed(star(100, 100)):
        assert name not in hierarchy.names()
        assert f"{name}-0" not in namespace_names()
        assert len(leftovers(os.getpid())) == 4
    assert leftovers(os.getpid()) == []


@needs_testbed
def test_a_command_that_does_not_exist_is_one_line(tmp_path):
    launcher = start(cluster_file(tmp_path), "exec no-such-program")
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 127
    assert "no-such-program" in err


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
    plan = make_plan(workload, cluster, scores, Budget(0.7, 0.7), placement=placement)
    assert (plan.schedule != Operation.SHORTCUT).any()
