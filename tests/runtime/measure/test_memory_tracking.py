"""Peak and kept bytes that are measured, against the closed forms of `d2ft_sched.costs.memory`."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from d2ft_sched.costs.memory import device_memory
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from masked_operations import random_schedule
from runtime.lanes.slice_schedule import slice_schedule
from runtime.measure.memory_tracking import kept_bytes, peak_memory_bytes
from runtime.measure.steps_side_by_side import begin_state
from runtime.models.optimizers import create_optimizer
from runtime.partitioned_step import forward, forward_backward
from runtime.ranks.shards import whole_shards
from runtime.training.resting_rows import resting, update

CPU = torch.device("cpu")


def test_peak_counts_each_storage_once_and_forgets_the_freed() -> None:
    held = torch.zeros(1000)

    def run() -> Tensor:
        a = held.view(10, 100) + 1
        b = a.t()[:5] * 2
        del a, b
        return torch.zeros(3000)

    assert peak_memory_bytes(run, [held, held.view(-1)], CPU) == 4 * (1000 + 3000)
    assert kept_bytes(run, [held], CPU) == 4 * 3000


def test_gradients_of_what_is_used_twice_are_added_up_in_place() -> None:
    x = torch.zeros(1000, requires_grad=True)

    def run() -> None:
        (x * 2.0 + x.exp()).sum().backward()

    x.grad = None
    graph_and_gradients = 1000 + 2 * 1000  # what exp keeps; the gradients that both pass on
    assert peak_memory_bytes(run, [x], CPU) <= 4 * (1000 + graph_and_gradients + 8)
    assert x.grad is not None


@pytest.mark.parametrize(
    "shares",
    [
        (0, 0, 1, 0),
        (0.5, 0, 0.5, 0),
        (0.3, 0.4, 0.3, 0),
        (0, 1, 0, 0),
        (1, 0, 0, 0),
        (0, 0, 0, 1),
        (0.1, 0.2, 0.2, 0.5),
    ],
)
@pytest.mark.parametrize("num_waves", [1, 3])
@pytest.mark.parametrize("layer_scale", [None, 0.1])
def test_prediction_is_within_eight_percent(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    shares: tuple[float, ...],
    num_waves: int,
    layer_scale: float | None,
) -> None:
    sizes = {"embed_dim": 96, "img_size": 56, "init_values": layer_scale}
    model = small_vit(torch.float32, **sizes)
    workload = workload_of(model, 2, (4, 4, 4, 4, 4))
    rng = np.random.default_rng(0)
    schedule = random_schedule(rng, (workload.num_subnets, 5), shares)
    slices = slice_schedule(workload, schedule, num_waves)
    images, labels = torch.randn(20, 3, 56, 56), torch.randint(5, (20,))
    optimizer = create_optimizer(model, workload.optimizer, lr=0.0)

    def step() -> None:
        forward_backward(model, images, labels, slices)
        update(optimizer, left)
        optimizer.zero_grad()

    begin_state(optimizer)
    left = resting(model, whole_shards(model), workload, schedule)
    step()
    state = [t for values in optimizer.state.values() for t in values.values()]
    held = [*model.parameters(), *state, images, labels]
    placement = Placement(1, (0,) * workload.num_subnets, (0,) * 5)
    predicted = device_memory(workload, Replica(placement, num_waves), schedule)
    assert peak_memory_bytes(step, held, CPU) == pytest.approx(predicted.total[0], rel=0.08)
    kept = max(
        kept_bytes(lambda wave=wave: forward(model, wave.take(images), wave), held, CPU)
        for wave in slices.waves
    )
    assert kept == pytest.approx(predicted.activations[0], rel=0.02)
