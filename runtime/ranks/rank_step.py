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

from runtime.ranks.all_to_all import SentBytes
from runtime.ranks.job import start_sum
from runtime.ranks.rank_model import RankModel
from runtime.ranks.rank_slices import RankSlices
from runtime.ranks.step_gradients import StepGradients
from runtime.ranks.wave.rank_wave import RankBatch, WavePass
from runtime.torch_device import Stopwatch


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

    Parameters get new gradients as `StepGradients` says; what gradients were there before is
    dropped. Those of what several ranks hold are summed over them,
    a block's while backward is at the blocks before it.

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
        Mean loss of the whole mini-batch, a scalar without graph, the same on all ranks.

    Raises:
        RankError: another rank died or hung.
    """
    gradients = StepGradients(model, slices, counted)
    passes = [
        WavePass(
            model,
            wave,
            replace(batch, inputs=batch.inputs[wave.samples], labels=batch.labels[wave.samples]),
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
    if not passes:
        gradients.pass_by()
    # After backward, so that a step ends on no rank, idle ones included, before it ends on all.
    loss_sum = start_sum(model.ranks, loss, "the sum of the loss")
    gradients.finish()
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
