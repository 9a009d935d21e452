"""A training step of a timm VisionTransformer under a schedule, on one device.

The model stays as it is: the step reads its parameters where they are and leaves their gradients
there. The trunk (embeddings, norms, LayerScale, output biases, classifier) always runs; heads and
hidden units run as the schedule says.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from runtime.device import Stopwatch
from runtime.lane_pass import Core, attention_core
from runtime.lane_slices import BlockLanes, ScheduleSlices, SublayerLanes, Wave
from runtime.sublayer_lanes import sublayer_lanes


def forward(model: VisionTransformer, images: Tensor, wave: Wave) -> Tensor:
    """Logits ``[num_samples, num_classes]`` of one wave's images ``[num_samples, 3, H, W]``."""
    x = model.patch_embed(images)
    x = model._pos_embed(x)
    x = model.norm_pre(x)
    for block, lanes in zip(model.blocks, wave.blocks, strict=True):
        x = _block(block, x, lanes)
    return model.forward_head(model.norm(x))


def forward_backward(
    model: VisionTransformer,
    images: Tensor,
    labels: Tensor,
    slices: ScheduleSlices,
    watch: Stopwatch | None = None,
) -> Tensor:
    """Run one mini-batch and add its gradients to those of the parameters.

    The loss is the mean cross-entropy of the mini-batch, whatever the waves. Parameters that no
    micro-batch trains get zeros, so that the optimizer treats them as in any other step.

    Args:
        model: one that `runtime.models.check_supported` accepts.
        images: ``[num_samples, 3, H, W]``, micro-batch after micro-batch.
        labels: int64 ``[num_samples]``.
        slices: the schedule.
        watch: laps "forward" and "backward" are added to it.

    Returns:
        The loss, a scalar without graph on the device of `images`.
    """
    losses = []
    for wave in slices.waves:
        logits = forward(model, images[wave.samples], wave)
        total = F.cross_entropy(logits, labels[wave.samples], reduction="sum")
        loss = total / slices.num_samples
        if watch is not None:
            watch.lap("forward")
        loss.backward()
        if watch is not None:
            watch.lap("backward")
        losses.append(loss.detach())
    for parameter in model.parameters():
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    return torch.stack(losses).sum()


def _block(block: Any, x: Tensor, lanes: BlockLanes) -> Tensor:
    """One timm `Block` under its lanes."""
    attn, mlp = block.attn, block.mlp
    core = partial(attention_core, head_dim=attn.head_dim)
    x = _sublayer(x, block.norm1, attn.qkv, core, attn.proj, block.ls1, lanes.attention)
    return _sublayer(x, block.norm2, mlp.fc1, mlp.act, mlp.fc2, block.ls2, lanes.mlp)


def _sublayer(
    x: Tensor,
    norm: nn.Module,
    linear_in: nn.Linear,
    core: Core,
    linear_out: nn.Linear,
    layer_scale: nn.Module,
    lanes: SublayerLanes,
) -> Tensor:
    if not lanes.full and not lanes.forward_only:
        return x if linear_out.bias is None else x + layer_scale(linear_out.bias)
    with torch.set_grad_enabled(torch.is_grad_enabled() and bool(lanes.full)):
        normed = norm(x)
    branch = sublayer_lanes(
        normed,
        linear_in.weight,
        linear_in.bias,
        linear_out.weight,
        linear_out.bias,
        core,
        lanes,
    )
    return x + layer_scale(branch)
