"""Shares of links: max-min fairness, and the rows that a cluster gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.exchange import plan_exchange
from d2ft_sched.deployment import deploy
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.link_share import (
    fair_bytes,
    fair_level_s,
    level_granting_s,
    seconds_per_byte,
)
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.schedule import uniform_schedule

SHAPE = ModelShape("m", 1, 4, 8, 32, 64, 5)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4, 2, 3))


def switch_of(bandwidths, duplex="full"):
    devices = tuple(Device(f"d{i}", 1e9, 10**9, 1e10) for i in range(len(bandwidths)))
    links = tuple(
        Link(d.name, "switch", b, 0.0, duplex) for d, b in zip(devices, bandwidths, strict=True)
    )
    return Cluster("c", devices, links, ("switch",))


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32), st.floats(0.01, 2))
def test_shares_are_max_min_fair(num_rows, num_devices, seed, level):
    rng = np.random.default_rng(seed)
    table = rng.random((num_rows, num_devices)) * (rng.random((num_rows, num_devices)) < 0.6)
    demand = rng.random(num_devices) * (rng.random(num_devices) < 0.8)
    granted = fair_bytes(table, demand, level)
    load = table @ granted
    assert (load <= level * (1 + 1e-9)).all()
    assert (granted <= demand).all()
    full = load >= level * (1 - 1e-9)
    for d in np.flatnonzero(granted < demand * (1 - 1e-9)):
        crossed = full & (table[:, d] > 0)
        assert any(
            granted[d] >= granted[table[r] > 0].max() - 1e-9 for r in np.flatnonzero(crossed)
        )


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32), st.floats(0, 1))
def test_the_level_grants_what_is_asked(num_devices, seed, fraction):
    rng = np.random.default_rng(seed)
    table, demand = rng.random((3, num_devices)) + 0.01, rng.random(num_devices)
    total = fraction * demand.sum()
    level = fair_level_s(table, demand, total)
    assert fair_bytes(table, demand, level).sum() == pytest.approx(total, abs=1e-9)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32), st.floats(0.01, 1))
def test_the_level_grants_each_device_what_it_needs_and_no_less_does(
    num_rows, num_devices, seed, part
):
    rng = np.random.default_rng(seed)
    table = rng.random((num_rows, num_devices))
    demand = rng.random(num_devices)
    needed = part * demand * rng.uniform(0.1, 1, num_devices)
    level = level_granting_s(table, demand, needed)
    assert (fair_bytes(table, demand, level) >= needed).all()
    assert (fair_bytes(table, demand, level * (1 - 1e-6)) < needed).any()


@pytest.mark.parametrize("duplex", ["full", "half"])
def test_rows_price_the_dense_exchange(duplex):
    cluster = switch_of([1e6, 2e6, 5e5, 1e6], duplex)
    placement = Placement(4, (0, 1, 2, 2), (0, 1, 1))
    dense = uniform_schedule(4, 3, Operation.FULL)
    exchange = plan_exchange(WORKLOAD, placement, dense)
    dispatch = exchange.dispatch_bytes(0, 0)
    holders = np.array([0, 1, 2])
    received = dispatch.sum(axis=0)[holders]
    table = seconds_per_byte(deploy(WORKLOAD, cluster, placement), holders)
    # Both sub-layers and directions dispatch and combine: 8 exchanges, half of them either way.
    seconds = table @ (8.0 * received)
    sent_s = dispatch.sum(axis=1) / np.array([1e6, 2e6, 5e5, 1e6])
    got_s = dispatch.sum(axis=0) / np.array([1e6, 2e6, 5e5, 1e6])
    one_way = (sent_s + got_s).max() if duplex == "half" else max(sent_s.max(), got_s.max())
    assert seconds.max() == pytest.approx(8 * one_way)


def test_an_owner_of_everything_asks_for_nothing():
    table = seconds_per_byte(
        deploy(WORKLOAD, switch_of([1e6, 1e6]), Placement(2, (0,) * 4, (0,) * 3)), np.array([0])
    )
    assert table.shape == (0, 1)
    assert fair_bytes(table, np.array([0.0]), 0.0).tolist() == [0.0]
