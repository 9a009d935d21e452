import copy

import torch

from d2ft_sched.compute_curve import WorkKind
from runtime.profile import monotone_curve, profile_device


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


def test_a_curve_is_the_nearest_that_does_not_fall():
    curve = monotone_curve({1.0: [1.0, 9.0, 2.0], 2.0: [4.0], 3.0: [2.0], 4.0: [5.0]})
    assert curve.work == (1.0, 2.0, 3.0, 4.0)
    assert curve.seconds == (2.0, 3.0, 3.0, 5.0)
