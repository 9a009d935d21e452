"""Device placement and types, checked without a GPU: fake CUDA tensors, meta tensors, bfloat16."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch._subclasses.fake_tensor import FakeTensorMode

from d2ft_sched.model.workload import Workload
from runtime.lanes.hooks import rescaled
from runtime.lanes.slice_schedule import slice_schedule
from runtime.lanes.slices import ScheduleSlices
from runtime.partitioned_step import forward, forward_backward


@pytest.fixture
def mixed(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> tuple[Workload, np.ndarray]:
    workload = workload_of(small_vit(init_values=0.1), 2)
    schedule = np.random.default_rng(3).integers(
        3, size=(workload.num_subnets, workload.num_microbatches)
    )
    return workload, schedule


@pytest.fixture
def mixed_slices(mixed: tuple[Workload, np.ndarray]) -> ScheduleSlices:
    return slice_schedule(*mixed)


def test_forward_stays_on_a_fake_cuda_device(mixed_slices: ScheduleSlices) -> None:
    with torch.device("meta"):
        model = VisionTransformer(
            img_size=28, patch_size=14, embed_dim=48, depth=3, num_heads=6, num_classes=5
        )
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cuda")
        images = torch.randn(mixed_slices.num_samples, 3, 28, 28, device="cuda")
        logits = forward(model, images, mixed_slices.waves[0])
    assert logits.device.type == "cuda"
    assert logits.shape == (mixed_slices.num_samples, 5)


@pytest.mark.parametrize(("layer_scale", "is_rescaled"), [(None, False), (0.1, True)])
def test_forward_and_backward_stay_on_meta(
    mixed: tuple[Workload, np.ndarray],
    mixed_slices: ScheduleSlices,
    layer_scale: float | None,
    is_rescaled: bool,
) -> None:
    if is_rescaled:
        mixed_slices = rescaled(mixed_slices, *mixed, torch.device("meta"))
    with torch.device("meta"):
        model = VisionTransformer(
            img_size=28,
            patch_size=14,
            embed_dim=48,
            depth=3,
            num_heads=6,
            num_classes=5,
            init_values=layer_scale,
        )
        images = torch.randn(mixed_slices.num_samples, 3, 28, 28)
        labels = torch.zeros(mixed_slices.num_samples, dtype=torch.int64)
    loss = forward_backward(model, images, labels, mixed_slices)
    assert loss.device.type == "meta"
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.device.type == "meta"
        assert parameter.grad.shape == parameter.shape


@pytest.mark.parametrize("is_rescaled", [False, True])
def test_bfloat16_autocast_follows_float32(
    small_vit: Callable[..., VisionTransformer],
    mixed: tuple[Workload, np.ndarray],
    mixed_slices: ScheduleSlices,
    is_rescaled: bool,
) -> None:
    if is_rescaled:
        mixed_slices = rescaled(mixed_slices, *mixed, torch.device("cpu"))
    model = small_vit(torch.float32, init_values=0.1)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(mixed_slices.num_samples, 3, 28, 28, generator=generator)
    labels = torch.randint(5, (mixed_slices.num_samples,), generator=generator)
    exact = forward_backward(model, images, labels, mixed_slices)
    wanted = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = forward_backward(model, images, labels, mixed_slices)
    got = [p.grad for p in model.parameters() if p.grad is not None]
    assert float(rounded) == pytest.approx(float(exact), rel=0.05)
    assert all(g.dtype == torch.float32 for g in got)
    likeness = torch.cosine_similarity(
        torch.cat([g.flatten() for g in got]), torch.cat([g.flatten() for g in wanted]), dim=0
    )
    assert float(likeness) > 0.98
