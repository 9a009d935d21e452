"""Whole micro-batches that are left out: the step is that of the others alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from d2ft_sched.costs.flops import step_flops
from d2ft_sched.schedule.operations import Operation
from runtime.data.minibatches import redealt
from runtime.lanes.slice_schedule import slice_schedule
from runtime.partitioned_step import forward_backward

SIZES = (2, 3, 1, 2)


@pytest.mark.parametrize("num_waves", [1, 2])
@pytest.mark.parametrize("left_out", [(0,), (1,), (0, 2), (3,)])
def test_a_step_is_that_of_what_runs(small_vit, workload_of, left_out, num_waves):
    model = small_vit()
    workload = workload_of(model, 1, SIZES)
    rng = np.random.default_rng(0)
    schedule = rng.choice([*Operation], size=(workload.num_subnets, len(SIZES))).astype(np.int8)
    schedule[0] = Operation.FULL
    schedule[:, left_out] = Operation.SHORTCUT
    kept = np.setdiff1d(np.arange(len(SIZES)), left_out)
    images = torch.randn(sum(SIZES), 3, 28, 28, dtype=torch.float64)
    labels = torch.arange(sum(SIZES)) % 5
    fewer = replace(workload, microbatch_samples=tuple(SIZES[i] for i in kept))
    of_kept = torch.from_numpy(np.isin(np.repeat(np.arange(len(SIZES)), SIZES), kept))

    def run(own, table, x, y):
        model.zero_grad()
        loss = forward_backward(model, x, y, slice_schedule(own, table, num_waves))
        return loss, [p.grad for p in model.parameters()]

    loss, found = run(workload, schedule, images, labels)
    wanted_loss, wanted = run(fewer, schedule[:, kept], images[of_kept], labels[of_kept])
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-12, atol=0)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert step_flops(workload, schedule) == step_flops(fewer, schedule[:, kept])


def test_samples_are_dealt_anew_to_the_same_owners():
    samples, owner = np.arange(100, 120), np.repeat([0, 3, 0], [8, 5, 7])
    orders = [redealt(samples, owner, (0, step)) for step in range(20)]
    for order in orders:
        for one in (0, 3):
            assert set(order[owner == one]) == set(samples[owner == one])
    assert (orders[0] == redealt(samples, owner, (0, 0))).all()
    assert set(np.concatenate([order[:2] for order in orders])) == set(samples[owner == 0])
