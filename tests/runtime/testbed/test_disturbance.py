"""Devices that lose a part of their CPU share while a command runs."""

import ast
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.errors import InputError
from runtime.testbed.commands import missing_requirements
from runtime.testbed.control_groups import find_hierarchy
from runtime.testbed.cpu_shares import CpuShare
from runtime.testbed.disturbance import (
    Disturbance,
    check_disturbances,
    disturbing,
    parse_disturbance,
)
from runtime.testbed.open_testbed import open_testbed
from runtime.testbed.ranks import run_ranks

CLUSTER = Cluster(
    "two",
    tuple(Device(f"d{i}", 1e10, 10**9, 1e10) for i in range(2)),
    tuple(Link(f"d{i}", "switch", 1.25e7, 0.0) for i in range(2)),
    ("switch",),
)


SHARES = (CpuShare(0, 0.4), CpuShare(0, 0.4))


def lacking() -> str:
    """What a testbed with CPU shares needs and this machine does not have."""
    try:
        find_hierarchy()
    except InputError as error:
        return str(error)
    return " and ".join(missing_requirements())


needs_testbed = pytest.mark.skipif(bool(lacking()), reason=lacking())


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("d0", "must be DEVICE:FACTOR:FROM_S[:UNTIL_S]"),
        ("d0:half:3", "must be DEVICE:FACTOR:FROM_S[:UNTIL_S]"),
        ("d0:0.5:3:4:5", "must be DEVICE:FACTOR:FROM_S[:UNTIL_S]"),
        ("d0:0:3", "FACTOR is 0"),
        ("d0:0.5:-1", "lasts from -1 s until inf s"),
        ("d0:0.5:9:9", "lasts from 9 s until 9 s"),
    ],
)
def test_a_disturbance_that_cannot_be_is_one_line(text, wrong):
    with pytest.raises(InputError) as raised:
        parse_disturbance(text)
    assert text in str(raised.value)
    assert wrong in str(raised.value)


def test_a_disturbance_needs_its_device_and_limited_shares():
    name = CLUSTER.devices[0].name
    with pytest.raises(InputError, match="has no device 'other'"):
        check_disturbances([parse_disturbance("other:0.5:0")], CLUSTER, SHARES)
    with pytest.raises(InputError, match="no-cpu-shares"):
        check_disturbances([Disturbance(name, 0.5, 0.0)], CLUSTER, None)


@pytest.mark.parametrize(
    "texts", [["d0:1e-5:3"], ["d0:1e12:3"], ["d0:1.6:3"], ["d0:0.03:1", "d0:0.04:3:4"]]
)
def test_a_share_that_cannot_be_is_one_line(texts):
    wrong = r"gives 'd0' .* cores from 3 s on .* must be 0\.0005 to 0\.6, which the others leave"
    with pytest.raises(InputError, match=wrong):
        check_disturbances([*map(parse_disturbance, texts)], CLUSTER, SHARES)
    check_disturbances([parse_disturbance("d0:1.5:3")], CLUSTER, SHARES)


@pytest.mark.parametrize(
    ("texts", "changes"),
    [
        (["d0:0.5:10:20", "d0:0.25:20:30"], [(10, 0.5), (20, 0.25), (30, 1)]),
        (["d0:0.5:10:40", "d0:0.25:15:20"], [(10, 0.5), (15, 0.125), (20, 0.5), (40, 1)]),
    ],
    ids=["one after the other", "one within the other"],
)
def test_disturbances_of_one_device_do_not_end_one_another(texts, changes):
    now_s, seen = [0], []
    testbed = SimpleNamespace(scale_share=lambda _, factor: seen.append((now_s[0], factor)))
    disturbances = [*map(parse_disturbance, texts)]
    tick = disturbing(testbed, disturbances, lambda _: None, lambda: now_s[0])
    for now_s[0] in range(50):
        tick()
    assert seen == changes


@needs_testbed
def test_a_share_is_cut_while_a_command_runs_and_comes_back(tmp_path):
    said: list[str] = []
    name = CLUSTER.devices[1].name
    computed = tmp_path / "computed_s"
    count = (
        "import os, time; end = time.monotonic() + 1.8; seen = []\n"
        "while time.monotonic() < end:\n"
        "    seen.append((time.monotonic(), time.process_time()))\n"
        "if os.environ['RANK'] == '1':\n"
        f"    open({str(computed)!r}, 'w').write(repr(seen[::50]))"
    )
    with open_testbed(CLUSTER, cores_per_unit=0.4) as testbed:
        begin_s = time.monotonic()
        disturbed = disturbing(testbed, [Disturbance(name, 0.25, 0.7, 1.3)], said.append)
        assert run_ranks(testbed, [sys.executable, "-c", count], tick=disturbed) == 0
    at_s, computed_s = np.array(ast.literal_eval(computed.read_text())).T
    at_s -= begin_s
    got = [
        np.diff(np.interp([start, start + 0.4], at_s, computed_s))[0] / 0.4
        for start in (0.25, 0.85, 1.35)
    ]
    assert got[1] < 0.6 * got[0]
    assert got[1] < 0.6 * got[2]
    assert said == [
        f"{name} has 0.25 of its CPU share from 0.7 s on",
        f"{name} has 1 of its CPU share from 1.3 s on",
    ]
