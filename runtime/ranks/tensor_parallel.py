"""A dense training step cut by tensor parallelism (Megatron-LM, arXiv 1909.08053).

Every rank that takes part has all samples and the whole trunk, and its heads and hidden units of
every block. What these add to a sub-layer's output is all-reduced forward, and the gradient of the
sub-layer's input backward; so the trunk's gradients come out the same on all of them. Those of
norms that all heads share, of queries and keys, are summed after backward.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from runtime.families.sublayer import Sublayer
from runtime.lanes.products import compute_dtype
from runtime.ranks.all_to_all import SentBytes
from runtime.ranks.job import Ranks, start_sum
from runtime.ranks.rank_model import RankModel, scatter_rank_model
from runtime.torch_device import Stopwatch


def scatter_tensor_parallel(
    model: nn.Module, workload: Workload, num_heads: Sequence[int], ranks: Ranks
) -> RankModel:
    """Turn `model` into this rank's heads and hidden units of every block, and the trunk.

    Args:
        model: whole on rank 0, on the meta device on all others; it is changed.
        workload: the model; neither its partition nor its mini-batch is looked at.
        num_heads: of every block on each rank; a rank without heads takes no part.
        ranks: all of which must call this.
    """
    single, placement = tensor_parallel_placement(workload, num_heads)
    return scatter_rank_model(model, single, (Replica(placement),), ranks)


def tensor_parallel_placement(
    workload: Workload, num_heads: Sequence[int]
) -> tuple[Workload, Placement]:
    """Subnets of one head, dealt to ranks one after another, and a sample for every rank that takes
    part, so that it holds the trunk."""
    members = [rank for rank, num in enumerate(num_heads) if num]
    single = replace(
        workload,
        partition=partition_by_heads(workload.shape, 1),
        microbatch_samples=(1,) * len(members),
    )
    device_of_head = np.repeat(np.arange(len(num_heads)), num_heads).tolist()
    subnet_device = tuple(device_of_head * workload.shape.num_blocks)
    return single, Placement(len(num_heads), subnet_device, tuple(members))


def tensor_parallel_forward_backward(
    model: RankModel,
    inputs: Tensor,
    labels: Tensor,
    watch: Stopwatch | None = None,
    counted: SentBytes | None = None,
) -> Tensor | None:
    """Run one mini-batch and add its gradients to those of the parameters.

    Args:
        model: from `scatter_tensor_parallel`.
        inputs: of all samples, as the model takes them, ``[num_samples, ...]``.
        labels: of all samples.
        watch: laps "forward" and "backward", all-reduces included, are added to it.
        counted: bytes of the all-reduces, as a ring's, are added to it.

    Returns:
        Mean cross-entropy, a scalar without graph, the same on all ranks that take part; None on
        others.

    Raises:
        RankError: another rank died or hung.
    """
    if model.ranks.rank not in model.owners:
        return None
    members = _Members(model, counted)
    family, module = model.family, model.module
    x, key_mask = family.embed(module, inputs), family.key_mask(module, inputs)
    for block in model.blocks:
        for sublayer in block:
            x = _sublayer(x, sublayer, key_mask, members)
    total = family.loss(module, family.features(module, x, inputs), labels)
    loss = total / family.num_counted(labels).sum()
    if watch is not None:
        watch.lap("forward")
    loss.backward()
    for sublayer in chain.from_iterable(model.blocks):
        for parameter in sublayer.core_parameters:
            if parameter.grad is not None:
                parameter.grad = members.sum(parameter.grad, "the sum of a core's gradient")
    if watch is not None:
        watch.lap("backward")
    return loss.detach()


@dataclass(frozen=True, eq=False)
class _Members:
    """The ranks that take part."""

    model: RankModel
    counted: SentBytes | None

    def sum(self, value: Tensor, what: str) -> Tensor:
        """A copy, summed over the members."""
        total, owners = value.clone(), self.model.owners
        if len(owners) > 1:
            if self.counted is not None:
                num_bytes = total.numel() * total.element_size()
                self.counted.add_all_reduce(self.model.ranks.rank, owners, num_bytes)
            start_sum(self.model.ranks, total, what, self.model.groups[owners]).wait()
        return total


class _GradientSum(torch.autograd.Function):
    """The same forward; the sum over members of the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, members: _Members) -> Tensor:
        ctx.members = members
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.members.sum(grad, "the sum of a gradient"), None


class _OutputSum(torch.autograd.Function):
    """The sum over members forward; the same gradient backward."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, members: _Members) -> Tensor:
        return members.sum(part, "the sum of an output")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _sublayer(x: Tensor, sublayer: Sublayer, key_mask: Tensor | None, members: _Members) -> Tensor:
    normed = sublayer.norm(x) if sublayer.norm_first else x
    lane_input = _GradientSum.apply(normed.to(compute_dtype(normed)), members)
    linears = sublayer.linears()
    projected = [
        F.linear(lane_input, weight, bias)
        for weight, bias in zip(linears.weights_in, linears.biases_in, strict=True)
    ]
    part = F.linear(sublayer.core(projected, key_mask), linears.weight_out)
    delta = _OutputSum.apply(part, members)
    if sublayer.bias_out is not None:
        delta = delta + sublayer.bias_out
    x = x + (delta if sublayer.scale is None else delta * sublayer.scale)
    return x if sublayer.norm_first else sublayer.norm(x)
