import copy
from collections import Counter

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.costs.memory_traffic import trunk_bytes_moved
from runtime.measure.device_profile import DeviceProfile, monotone_curve, profile_device


class NormsRun(TorchDispatchMode):
    """How often layer norms run."""

    def __init__(self):
        super().__init__()
        self.number = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "native_layer_norm" in str(func):
            self.number["backward" if "backward" in str(func) else "forward"] += 1
        return func(*args, **(kwargs or {}))


def test_a_profile_has_every_curve_and_leaves_the_model_alone(small_vit, workload_of):
    model = small_vit(torch.float32, img_size=56)
    before = copy.deepcopy(model.state_dict())
    workload = workload_of(model, 2, (4,) * 3)
    calls = []
    device = profile_device(
        model,
        workload,
        torch.device("cpu"),
        num_repeats=1,
        progress=lambda *done: calls.append(done),
    )
    assert set(device.curves) == set(WorkKind)
    assert device.launch_s > 0
    assert calls[-1][0] == calls[-1][1] == len(calls) - 1
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_curves_reach_from_one_subnet_to_a_dense_block(small_vit, workload_of):
    model = small_vit(torch.float32)
    workload = workload_of(model, 1, (2, 2))
    device = profile_device(model, workload, torch.device("cpu"), num_repeats=1)
    for kind in (WorkKind.ATTENTION_FORWARD, WorkKind.MLP_BACKWARD):
        smallest, largest = device.curves[kind].calibrated_range
        assert largest / smallest == 6 * 2


def test_the_trunk_is_timed_with_and_without_its_norms(small_vit, workload_of, monkeypatch):
    monkeypatch.setattr("runtime.measure.device_profile.LEAST_SAMPLE_S", 0.0)
    monkeypatch.setattr("runtime.measure.device_profile.quota_period_s", lambda: 0.0)
    model = small_vit(torch.float32)
    workload = workload_of(model, 1, (2, 2))
    norms = NormsRun()
    with norms:
        device = profile_device(model, workload, torch.device("cpu"), num_repeats=1)
    num_blocks = workload.shape.num_blocks
    runs = 2 * workload.num_microbatches
    expected = runs * (2 + 2 * num_blocks)
    assert norms.number == {"forward": expected, "backward": expected}
    sizes = {
        float(trunk_bytes_moved(workload, np.full(2, running)).forward[:m].sum())
        for running in (0, num_blocks)
        for m in (1, 2)
    }
    assert set(device.curves[WorkKind.TRUNK_FORWARD].work) == sizes


def test_a_curve_is_the_nearest_that_does_not_fall():
    curve = monotone_curve({1.0: [1.0, 9.0, 2.0], 2.0: [4.0], 3.0: [2.0], 4.0: [5.0]})
    assert curve.work == (1.0, 2.0, 3.0, 4.0)
    assert curve.seconds == (2.0, 3.0, 3.0, 5.0)


def test_rounds_may_follow_and_the_first_does_not_count(small_vit, workload_of):
    model = small_vit(torch.float32)
    profile = DeviceProfile(model, workload_of(model, 1, (2, 2)), torch.device("cpu"))
    done = []
    for _ in range(3):
        profile.run_round(done.append)
    assert done == 3 * list(range(1, profile.num_sizes + 1))
    before = profile.device()
    profile.run_round()
    after = profile.device()
    assert before.curves[WorkKind.OPTIMIZER].work == after.curves[WorkKind.OPTIMIZER].work
    assert before.curves != after.curves


def test_small_work_is_seen_over_many_periods_of_a_quota(small_vit, workload_of, monkeypatch):
    model = small_vit(torch.float32)
    workload = workload_of(model, 1, (2, 2))
    monkeypatch.setattr("runtime.measure.device_profile.LEAST_SAMPLE_S", 0.0)
    runs = []
    for period_s in (0.0, 2e-3):
        monkeypatch.setattr(
            "runtime.measure.device_profile.quota_period_s", lambda period_s=period_s: period_s
        )
        norms = NormsRun()
        with norms:
            profile_device(model, workload, torch.device("cpu"), num_repeats=1)
        runs.append(norms.number["forward"])
    assert runs[1] > runs[0]
