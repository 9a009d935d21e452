"""Dense steps that savings are held against, measured on the ranks of a job."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d2ft_sched.model.workload import Workload
from runtime.measure.rank_step_times import RankStep, RankStepMeasurement, measure_in_turns
from runtime.measure.steps_side_by_side import random_batch, untouched_loss
from runtime.models.optimizers import create_optimizer
from runtime.ranks.all_to_all import SentBytes
from runtime.ranks.job import Ranks
from runtime.ranks.tensor_parallel import scatter_tensor_parallel, tensor_parallel_forward_backward
from runtime.torch_device import Stopwatch, autocast


def measure_tensor_parallel(
    model: nn.Module,
    workload: Workload,
    num_heads: Sequence[int],
    ranks: Ranks,
    *,
    num_repeats: int = 5,
) -> RankStepMeasurement:
    """Measure `runtime.ranks.tensor_parallel`; the same result on all ranks.

    Args:
        model: whole on rank 0, on the meta device on all others; it is changed.
        workload: model, mini-batch and optimizer; the partition is not looked at.
        num_heads: of every block on each rank.
        ranks: all of which call this.
        num_repeats: timed steps, after one that is not.
    """
    part = scatter_tensor_parallel(model, workload, num_heads, ranks)
    inputs, labels = random_batch(part.module, workload, ranks.device)
    optimizer = create_optimizer(part.module, workload.optimizer, lr=0.0)

    def step(watch: Stopwatch | None, counted: SentBytes | None) -> None:
        with autocast(ranks.device, workload):
            tensor_parallel_forward_backward(part, inputs, labels, watch, counted)
        _update(optimizer, watch)

    return _measure(ranks, step, part.module, optimizer, [inputs, labels], num_repeats)


def measure_alone(
    model: nn.Module,
    workload: Workload,
    ranks: Ranks,
    *,
    num_repeats: int = 5,
) -> RankStepMeasurement:
    """Measure the untouched model on rank 0, while the others wait; the same result on all ranks.

    Args:
        model: whole on rank 0, on the meta device on all others.
        workload: mini-batch and optimizer.
        ranks: all of which call this.
        num_repeats: timed steps, after one that is not.
    """
    if ranks.rank > 0:
        nothing = nn.Module()
        optimizer = create_optimizer(nothing, workload.optimizer, lr=0.0)
        return _measure(ranks, lambda watch, counted: None, nothing, optimizer, [], num_repeats)
    model = model.to(ranks.device)
    inputs, labels = random_batch(model, workload, ranks.device)
    optimizer = create_optimizer(model, workload.optimizer, lr=0.0)

    def step(watch: Stopwatch | None, counted: SentBytes | None) -> None:
        with autocast(ranks.device, workload):
            loss = untouched_loss(model, inputs, labels)
        loss.backward()
        _update(optimizer, watch)

    return _measure(ranks, step, model, optimizer, [inputs, labels], num_repeats)


def _measure(
    ranks: Ranks,
    step: RankStep,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    held: Sequence[Tensor],
    num_repeats: int,
) -> RankStepMeasurement:
    steps = {"step": step}
    return measure_in_turns(ranks, steps, module, optimizer, {"step": held}, num_repeats)["step"]


def _update(optimizer: torch.optim.Optimizer, watch: Stopwatch | None) -> None:
    optimizer.step()
    optimizer.zero_grad()
    if watch is not None:
        watch.lap("optimizer")
