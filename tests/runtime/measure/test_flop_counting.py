"""Counted FLOPs of a step against the closed forms, operator by operator the same."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.costs.flops import step_flops
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.lanes.slice_schedule import slice_schedule
from runtime.measure.flop_counting import count_flops
from runtime.partitioned_step import forward_backward


def counted(model: VisionTransformer, workload: Workload, schedule: np.ndarray, num_waves: int):
    images = torch.randn(int(workload.samples.sum()), 3, 28, 28)
    labels = torch.zeros(len(images), dtype=torch.int64)
    slices = slice_schedule(workload, schedule, num_waves)
    return count_flops(lambda: forward_backward(model, images, labels, slices))


def test_dense_step_counts_as_predicted_and_as_plain_timm(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    model = small_vit(torch.float32)
    workload = workload_of(model)
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    images = torch.randn(int(workload.samples.sum()), 3, 28, 28)
    labels = torch.zeros(len(images), dtype=torch.int64)
    plain = count_flops(lambda: F.cross_entropy(model(images), labels).backward())
    assert counted(model, workload, dense, 1) == step_flops(workload, dense) == plain


@pytest.mark.parametrize("seed", range(12))
def test_random_plans_count_as_predicted(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    model = small_vit(torch.float32)
    workload = workload_of(model, [1, 2, 3, (1, 2, 3)][seed % 4])
    shares = rng.dirichlet(np.ones(4))
    schedule = rng.choice(4, size=(workload.num_subnets, workload.num_microbatches), p=shares)
    num_waves = 1 + seed % 3
    assert counted(model, workload, schedule, num_waves) == step_flops(workload, schedule)
