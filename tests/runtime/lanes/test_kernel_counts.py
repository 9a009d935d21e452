"""Kernels that a step starts, beside those of plain timm; counted, not timed."""

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from d2ft_sched.cluster.device_presets import ACCELERATOR
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from runtime.lanes.slice_schedule import slice_schedule
from runtime.measure.kernel_counting import count_kernels
from runtime.models.build import shape_of
from runtime.partitioned_step import forward_backward

Count = Callable[[int, np.ndarray], int]
PLAIN = 474


@pytest.fixture(scope="module")
def count() -> Count:
    """Of ViT-S/14 at 56 pixels, 5 micro-batches of one picture, on a device bound by launches."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_dinov2", img_size=56, num_classes=10)
    shape = shape_of(model)
    images, labels = torch.randn(5, 3, 56, 56), torch.randint(10, (5,))
    plain = count_kernels(lambda: F.cross_entropy(model(images), labels).backward())
    assert plain.total() == PLAIN

    def of(heads_per_subnet: int, schedule: np.ndarray) -> int:
        workload = Workload(shape, partition_by_heads(shape, heads_per_subnet), (1,) * 5)
        slices = slice_schedule(workload, schedule, device=ACCELERATOR)
        # Masks are made once per schedule.
        forward_backward(model, images, labels, slices)
        model.zero_grad()
        return count_kernels(lambda: forward_backward(model, images, labels, slices)).total()

    return of


def random(num_heads: int, full: float, forward_only: float = 0.0) -> np.ndarray:
    shares = (1 - full - forward_only, forward_only, full)
    size = (12 * (6 // num_heads), 5)
    return np.random.default_rng(0).choice(3, size=size, p=shares).astype(np.int8)


def test_all_full_starts_no_more_than_plain_timm(count: Count) -> None:
    dense = np.full((72, 5), Operation.FULL, dtype=np.int8)
    assert count(1, dense) <= PLAIN


def test_samples_dropped_everywhere_start_no_more(count: Count) -> None:
    schedule = np.full((72, 5), Operation.FULL, dtype=np.int8)
    schedule[:, 3:] = Operation.SHORTCUT
    assert count(1, schedule) <= 1.1 * PLAIN


@pytest.mark.parametrize("forward_only", [0.0, 0.3])
@pytest.mark.parametrize("full", [0.3, 0.4, 0.6])
@pytest.mark.parametrize("num_heads", [6, 3, 2, 1])
def test_random_plans_start_at_most_half_more(
    count: Count, num_heads: int, full: float, forward_only: float
) -> None:
    assert count(num_heads, random(num_heads, full, forward_only)) <= 1.5 * PLAIN
