"""Reduced precision of float32 products: close, without fused attention, and undone afterwards."""

import numpy as np
import pytest
import torch

from d2ft_sched.schedule.operations import Operation
from runtime.lanes.slice_schedule import slice_schedule
from runtime.partitioned_step import forward_backward
from runtime.torch_device import float32_products


def step(model, workload, schedule):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 28, 28, generator=generator)
    labels = torch.randint(5, (8,), generator=generator)
    model.zero_grad()
    loss = forward_backward(model, images, labels, slice_schedule(workload, schedule))
    return float(loss), torch.cat([p.grad.flatten() for p in model.parameters()])


def test_gradients_stay_close_and_precision_comes_back(small_vit, workload_of):
    model = small_vit(torch.float32)
    workload = workload_of(model)
    rng = np.random.default_rng(0)
    schedule = rng.choice(
        [Operation.FULL, Operation.FORWARD_ONLY, Operation.SHORTCUT], (18, 4), p=(0.6, 0.2, 0.2)
    )
    exact_loss, exact = step(model, workload, schedule)
    with float32_products("highest"):
        same_loss, same = step(model, workload, schedule)
    with float32_products("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        assert not torch.backends.cuda.flash_sdp_enabled()
        loss, gradient = step(model, workload, schedule)
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cuda.flash_sdp_enabled()
    assert (same_loss, torch.equal(same, exact)) == (exact_loss, True)
    assert loss == pytest.approx(exact_loss, rel=0.02)
    assert gradient.dtype == torch.float32
    assert float(torch.cosine_similarity(gradient, exact, dim=0)) > 0.995


def test_precision_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError), float32_products("medium"):
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == "highest"
