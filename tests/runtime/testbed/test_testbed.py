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

from d2ft_sched.errors import InputError
from runtime.testbed.check import check_links, check_shares
from runtime.testbed.commands import missing_requirements, require_testbed
from runtime.testbed.cpu_shares import find_hierarchy
from runtime.testbed.namespaces import create_namespace, inside, namespace_names
from runtime.testbed.open_testbed import open_testbed
from testbed_clusters import network, star

ROOT = Path(__file__).parents[3]
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
