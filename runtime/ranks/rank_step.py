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
from runtime.ranks.job import Pending, start_sum
from runtime.ranks.rank_lanes import Gradients
from runtime.ranks.rank_model import RankModel, Replicas
from runtime.ranks.rank_slices import RankSlices
from runtime.ranks.rank_wave import RankBatch, WavePass
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

    Every parameter held that trains gets a new gradient, zeros where nothing does train it; what
    gradients were there before is dropped. Those of what several ranks hold are summed over them.

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
    replicated = _new_gradients(model)
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
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    # After backward, so that a step ends on no rank, idle ones included, before it ends on all.
    loss_sum = start_sum(model.ranks, loss, "the sum of the loss")
    for replicas, gradient in replicated:
        _sum_gradients(model, replicas, gradient, counted)
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


def _new_gradients(model: RankModel) -> list[tuple[Replicas, Tensor]]:
    """Replicated parameters' gradients in buffers of zeros, each parameter's being a part of one.

    Where adapters train all others get zeros as well, for lanes to add to.
    """
    parameters = dict(model.module.named_parameters())
    for parameter in parameters.values():
        is_factor = model.workload.lora is not None and parameter.requires_grad
        parameter.grad = torch.zeros_like(parameter) if is_factor else None
    made = []
    for replicas in (model.trunk, model.shared_factors):
        if model.ranks.rank not in replicas.members:
            continue
        flat = torch.zeros(replicas.num_values, dtype=model.dtype, device=model.ranks.device)
        parts = flat.split([shape.numel() for shape in replicas.shapes.values()])
        for (name, shape), part in zip(replicas.shapes.items(), parts, strict=True):
            if name in parameters:
                parameters[name].grad = part.view(shape)
        made.append((replicas, flat))
    return made


def _sum_gradients(
    model: RankModel, replicas: Replicas, gradient: Tensor, counted: SentBytes | None
) -> None:
    if len(replicas.members) == 1 or not len(gradient):
        return
    if counted is not None:
        num_bytes = gradient.numel() * gradient.element_size()
        counted.add_all_reduce(model.ranks.rank, replicas.members, num_bytes)
    pending: Pending = start_sum(
        model.ranks, gradient, f"the sum of {replicas.what}", replicas.group
    )
    pending.wait()
