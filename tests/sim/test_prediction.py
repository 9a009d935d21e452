"""What a prediction says of its phases and of memory."""

from dataclasses import replace

import numpy as np
import pytest

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.compute_curve import ComputeCurve, WorkKind
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.memory import DeviceMemory
from sim.prediction import OutOfMemory, Phase, Prediction

NOTHING = np.zeros(2)
MEMORY = DeviceMemory(*(NOTHING,) * 7, total=np.array([5.0, 9.0]))
CLUSTER = Cluster("c", (Device("a", 1e9, 10, 1e9),))


def computing(start_s, duration_s, wave=0):
    return Phase(wave, "forward", 0, "mlp lanes", start_s, duration_s, np.array([duration_s]))


def moving(start_s, duration_s, wave=0):
    return Phase(wave, "forward", 0, "mlp combine", start_s, duration_s, pair_bytes=np.ones((1, 1)))


def predicted(*phases):
    return Prediction(CLUSTER, phases, 0.0, MEMORY)


def test_phases_one_after_another():
    step = predicted(computing(0, 2), moving(2, 3), computing(5, 1), moving(6, 0))
    assert (step.step_s, step.exchange_s) == (6, 3)
    assert step.device_busy_s.tolist() == [3]
    assert step.device_idle_s.tolist() == [3]


def test_messages_under_computation_are_not_waited_for():
    step = predicted(computing(0, 4), moving(1, 2, 1), moving(3, 4), computing(5, 1, 1))
    assert step.step_s == 7
    assert step.exchange_s == 1 + 1


def test_two_exchanges_at_once_are_waited_for_once():
    assert predicted(moving(0, 3), moving(1, 3, 1), computing(4, 1)).exchange_s == 4


def test_the_last_phase_to_begin_need_not_be_the_last_to_end():
    assert predicted(computing(0, 9), moving(1, 2, 1)).step_s == 9


def test_calibrated_means_every_kind_of_work():
    curve = ComputeCurve((1.0, 2.0), (1e-6, 2e-6))
    for kinds, calibrated in ((list(WorkKind), True), ([WorkKind.OPTIMIZER], False)):
        device = replace(CLUSTER.devices[0], curves=dict.fromkeys(kinds, curve))
        step = replace(predicted(computing(0, 1)), cluster=Cluster("c", (device,)))
        assert step.is_calibrated == calibrated


def test_out_of_memory_names_the_device_and_the_shortfall(overfull):
    step = overfull.predicted()
    (found,) = step.out_of_memory
    needed = float(step.peak_memory_bytes[0])
    assert found == OutOfMemory("d0", needed, 1000)
    assert found.shortfall_bytes == needed - 1000 > 0
    assert step.step_s > 0


def test_memory_that_is_just_enough_is_enough(overfull):
    needed = int(np.ceil(overfull.predicted().peak_memory_bytes[0]))
    first, second = overfull.cluster.devices
    for memory_bytes, num_overfull in ((needed, 0), (needed - 1, 1)):
        devices = (replace(first, memory_bytes=memory_bytes), second)
        cluster = replace(overfull.cluster, devices=devices)
        assert len(overfull.on(cluster).out_of_memory) == num_overfull


def test_summary_is_plain(overfull):
    summary = overfull.predicted().summary()
    assert summary["step_s"] == pytest.approx(overfull.predicted().step_s)
    assert {type(v) for d in summary["devices"] for v in d.values()} <= {str, float, int}
