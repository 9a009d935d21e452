"""A training step on partitioned ranks: each computes its subnets, owners the trunk.

Backward is driven here, segment by segment, and not by one autograd graph over the whole model:
small graphs (embedding, each norm, each core, classifier) end in leaves, and the exchanges stand
between them as plain calls. So all ranks start the same collectives in the same order by
construction, whatever each of them has to compute, and a rank without work cannot fall out of step.
Waves are generators that pause while a message is on its way: run one after another they are the
plain step; run in turns, one computes while another's messages travel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from runtime.device import Stopwatch
from runtime.exchange import SentBytes
from runtime.rank_model import RankModel
from runtime.rank_slices import RankSlices
from runtime.rank_wave import Gradients, RankBatch, WavePass
from runtime.ranks import Pending, start_sum


def rank_forward_backward(
    model: RankModel,
    batch: RankBatch,
    slices: RankSlices,
    *,
    overlap: bool = False,
    watch: Stopwatch | None = None,
    counted: SentBytes | None = None,
) -> Tensor:
    """Run one mini-batch; all ranks must call this with slices of the same schedule.

    Every parameter held gets a new gradient, zeros where nothing trains it; what gradients were
    there before is dropped. Those of the trunk are summed over the owners.

    Args:
        model: what this rank holds.
        batch: the mini-batch as this rank has it.
        slices: the schedule as this rank sees it.
        overlap: interleave the waves; the same result for more memory, for all waves are kept
            until backward.
        watch: laps "forward trunk", "forward dispatch", "forward lanes", "forward combine", the
            same backward, and "all-reduce" are added to it.
        counted: bytes sent are added to it.

    Returns:
        Mean cross-entropy of the whole mini-batch, a scalar without graph, the same on all ranks.

    Raises:
        RankError: another rank died or hung.
    """
    trunk_gradient = _new_gradients(model)
    gradients: Gradients = {}
    passes = [
        WavePass(
            model,
            wave,
            replace(batch, inputs=batch.inputs[wave.samples], labels=batch.labels[wave.samples]),
            slices.num_samples,
            gradients,
            watch,
            counted,
        )
        for wave in slices.waves
    ]
    loss = torch.zeros((), dtype=model.dtype, device=model.ranks.device)
    groups = [passes] if overlap else [[one] for one in passes]
    for group in groups:
        _in_turns([one.forward() for one in group])
        for one in group:
            loss += one.loss
        _in_turns([one.backward() for one in group])
    for parameter in model.module.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    # After backward, so that a step ends on no rank, idle ones included, before it ends on all.
    loss_sum = start_sum(model.ranks, loss, "the sum of the loss")
    _sum_trunk_gradients(model, trunk_gradient, counted)
    loss_sum.wait()
    if watch is not None:
        watch.lap("all-reduce")
    return loss


def _in_turns(passes: Sequence[Iterator[None]]) -> None:
    """Run generators to their ends, each from pause to pause, in turns."""
    running = list(passes)
    while running:
        running = [one for one in running if next(one, _END) is not _END]


_END = object()


def _new_gradients(model: RankModel) -> Tensor:
    """The trunk's gradients in one buffer of zeros, its parameters' gradients being parts of it."""
    for parameter in model.module.parameters():
        parameter.grad = None
    sizes = [parameter.numel() for parameter in model.trunk]
    flat = torch.zeros(sum(sizes), dtype=model.dtype, device=model.ranks.device)
    for parameter, part in zip(model.trunk, flat.split(sizes), strict=True):
        parameter.grad = part.view(parameter.shape)
    return flat


def _sum_trunk_gradients(model: RankModel, gradient: Tensor, counted: SentBytes | None) -> None:
    rank, owners = model.ranks.rank, model.placement.owners
    if rank not in owners or len(owners) == 1:
        return
    if counted is not None:
        counted.add_all_reduce(rank, owners, gradient.numel() * gradient.element_size())
    what = "the sum of the trunk's gradients"
    pending: Pending = start_sum(model.ranks, gradient, what, model.owners_group)
    pending.wait()
