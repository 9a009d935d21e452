"""Devices that lose a part of their CPU share while a command runs."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.errors import InputError
from runtime.testbed.commands import missing_requirements
from runtime.testbed.cpu_shares import find_hierarchy
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


def cores_of(group: Path) -> float:
    """Quota over period, as the kernel has them."""
    names = (
        ["cpu.max"] if (group / "cpu.max").exists() else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    )
    quota_us, period_us = " ".join((group / name).read_text() for name in names).split()
    return int(quota_us) / int(period_us)


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
        check_disturbances([parse_disturbance("other:0.5:0")], CLUSTER, (0.4, 0.4))
    with pytest.raises(InputError, match="no-cpu-shares"):
        check_disturbances([Disturbance(name, 0.5, 0.0)], CLUSTER, None)


@pytest.mark.parametrize("texts", [["d0:1e-5:3"], ["d0:1e12:3"], ["d0:0.04:1", "d0:0.04:3:4"]])
def test_a_share_that_the_kernel_does_not_take_is_one_line(texts):
    with pytest.raises(InputError, match=r"gives 'd0' .* cores from 3 s on .* must be 0\.001 to"):
        check_disturbances([*map(parse_disturbance, texts)], CLUSTER, (0.4, 0.4))


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
def test_a_share_is_cut_while_a_command_runs_and_comes_back():
    said: list[str] = []
    name = CLUSTER.devices[1].name
    with open_testbed(CLUSTER, cores_per_unit=0.4) as testbed:
        before = [cores_of(group) for group in testbed.groups]
        now_s, seen = iter([0.0, 1.0, 1.0, 3.0, 3.0, 5.0]), []
        disturbed = disturbing(
            testbed, [Disturbance(name, 0.5, 3.0, 4.0)], said.append, lambda: next(now_s, 5.0)
        )

        def tick() -> float:
            until_s = disturbed()
            seen.append([cores_of(group) for group in testbed.groups])
            return min(until_s, 0.01)

        assert run_ranks(testbed, ["sleep", "1"], tick=tick) == 0
    assert before == pytest.approx([0.4, 0.4], rel=0.01)
    assert seen[0] == before
    assert seen[1] == pytest.approx([0.4, 0.2], rel=0.01)
    assert seen[-1] == before
    assert said == [
        f"{name} has 0.5 of its CPU share from 3 s on",
        f"{name} has 1 of its CPU share from 4 s on",
    ]
