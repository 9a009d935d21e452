"""Prices that a process has asked for before."""

from dataclasses import replace

import numpy as np
import pytest

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.compute_curve import ComputeCurve, WorkKind
from d2ft_sched.cluster.device import Device, OutOfCalibrationWarning, warn_anew
from d2ft_sched.deployment import Deployment
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from sim.ways import price as prices
from sim.ways.price import Priced, price

DEVICE = Device("remembered", 1e9, 10**9, 1e9)


def priced(device: Device) -> Priced:
    shape = ModelShape("m", 2, 2, 4, 8, 16, 5)
    workload = Workload(shape, partition_by_heads(shape, 1), (2, 3))
    replica = Replica(Placement(1, (0,) * 4, (0, 0)))
    schedule = np.full((4, 2), Operation.FULL, dtype=np.int64)
    return price(Deployment(workload, Cluster("one", (device,)), (replica,)), schedule)


def test_an_equal_step_is_not_simulated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = priced(DEVICE)
    monkeypatch.setattr(prices, "simulate_step", lambda *_: pytest.fail("again"))
    assert priced(replace(DEVICE)) is first


def test_sizes_beyond_a_curve_are_warned_of_each_time() -> None:
    curve = ComputeCurve((1.0, 2.0), (1e-6, 2e-6))
    for _ in range(2):
        warn_anew()
        with pytest.warns(OutOfCalibrationWarning, match="'remembered': mlp_forward"):
            priced(replace(DEVICE, curves={WorkKind.MLP_FORWARD: curve}))
