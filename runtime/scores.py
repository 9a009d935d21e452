"""Contribution scores of subnets from the model itself.

Backward score: Fisher information, the squared gradient of a micro-batch's mean loss summed over
the subnet's own parameters. Forward score: the magnitude of the subnet's weights, the same for
every micro-batch.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from d2ft_sched.scores import Scores
from d2ft_sched.workload import Workload

Magnitude = Literal["l1", "l2"]


def score_minibatch(
    model: VisionTransformer,
    images: Tensor,
    labels: Tensor,
    workload: Workload,
    *,
    magnitude: Magnitude = "l2",
) -> Scores:
    """Both scores of every subnet on every micro-batch; costs one dense step.

    Args:
        model: its gradients are discarded.
        images: normalised, ``[num_samples, 3, H, W]``, micro-batch after micro-batch.
        labels: int64 ``[num_samples]``.
        workload: subnets and micro-batch sizes.
        magnitude: norm of the weights that makes the forward score.
    """
    backward = fisher_information(model, images, labels, workload)
    forward = weight_magnitude(model, workload, magnitude)
    return Scores(np.repeat(forward[:, None], workload.num_microbatches, axis=1), backward)


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Mean over mini-batches, for a schedule that serves them all."""
    return Scores(
        np.mean([s.forward for s in scores], axis=0),
        np.mean([s.backward for s in scores], axis=0),
    )


def fisher_information(
    model: VisionTransformer, images: Tensor, labels: Tensor, workload: Workload
) -> np.ndarray:
    """Squared gradients summed per subnet, float ``[num_subnets, num_microbatches]``."""
    columns = []
    sizes = list(workload.microbatch_samples)
    for part, targets in zip(images.split(sizes), labels.split(sizes), strict=True):
        model.zero_grad()
        F.cross_entropy(model(part), targets).backward()
        columns.append(_sum_per_subnet(model, workload, _squared_gradient))
    model.zero_grad()
    return np.stack(columns, axis=1)


def weight_magnitude(
    model: VisionTransformer, workload: Workload, magnitude: Magnitude = "l2"
) -> np.ndarray:
    """L1 or L2 norm of each subnet's own parameters, float ``[num_subnets]``."""
    if magnitude == "l1":
        return _sum_per_subnet(model, workload, lambda p: p.detach().abs())
    return np.sqrt(_sum_per_subnet(model, workload, lambda p: p.detach().square()))


def _squared_gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.square()


def _sum_per_subnet(model: VisionTransformer, workload: Workload, of: Any) -> np.ndarray:
    """Sum of ``of(parameter)`` over every subnet's part of each parameter, ``[num_subnets]``."""
    num_heads = workload.shape.num_heads
    per_head, per_unit = [], []
    blocks: Any = model.blocks
    for block in blocks:
        qkv, proj, fc1, fc2 = block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2
        heads = of(qkv.weight).unflatten(0, (3, num_heads, -1)).sum((0, 2, 3))
        heads = heads + of(proj.weight).unflatten(1, (num_heads, -1)).sum((0, 2))
        units = of(fc1.weight).sum(1) + of(fc2.weight).sum(0)
        if qkv.bias is not None:
            heads = heads + of(qkv.bias).unflatten(0, (3, num_heads, -1)).sum((0, 2))
        if fc1.bias is not None:
            units = units + of(fc1.bias)
        per_head.append(heads)
        per_unit.append(units)
    head_sums = torch.stack(per_head).double().cpu().numpy()
    unit_sums = torch.stack(per_unit).double().cpu().numpy()
    return np.array(
        [
            head_sums[s.block, list(s.heads)].sum()
            + unit_sums[s.block, s.hidden_start : s.hidden_stop].sum()
            for s in workload.partition.subnets
        ]
    )
