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

from runtime.lane_slices import BlockLanes, ScheduleSlices, SublayerLanes, Wave
from runtime.sublayer_lanes import attention_core, sublayer_lanes


def forward(model: VisionTransformer, images: Tensor, wave: Wave) -> Tensor:
    """Logits ``[num_samples, num_classes]`` of one wave's images ``[num_samples, 3, H, W]``."""
    x = model.patch_embed(images)
    x = model._pos_embed(x)
    x = model.norm_pre(x)
    for block, lanes in zip(model.blocks, wave.blocks, strict=True):
        x = _block(block, x, lanes)
    return model.forward_head(model.norm(x))


def forward_backward(
    model: VisionTransformer, images: Tensor, labels: Tensor, slices: ScheduleSlices
) -> Tensor:
    """Run one mini-batch and add its gradients to those of the parameters.

    The loss is the mean cross-entropy of the mini-batch, whatever the waves. Subnets that no
    micro-batch trains get zeros, so that the optimizer treats them as in any other step.

    Args:
        model: one that `runtime.models.check_supported` accepts.
        images: ``[num_samples, 3, H, W]``, micro-batch after micro-batch.
        labels: int64 ``[num_samples]``.
        slices: the schedule.

    Returns:
        The loss, a scalar without graph on the device of `images`.
    """
    losses = []
    for wave in slices.waves:
        logits = forward(model, images[wave.samples], wave)
        total = F.cross_entropy(logits, labels[wave.samples], reduction="sum")
        loss = total / slices.num_samples
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _block(block: Any, x: Tensor, lanes: BlockLanes) -> Tensor:
    """One timm `Block` under its lanes."""
    attn, mlp = block.attn, block.mlp
    branch = sublayer_lanes(
        _norm(block.norm1, x, lanes.attention),
        attn.qkv.weight,
        attn.qkv.bias,
        attn.proj.weight,
        attn.proj.bias,
        partial(attention_core, head_dim=attn.head_dim),
        lanes.attention,
    )
    x = x + block.ls1(branch)
    branch = sublayer_lanes(
        _norm(block.norm2, x, lanes.mlp),
        mlp.fc1.weight,
        mlp.fc1.bias,
        mlp.fc2.weight,
        mlp.fc2.bias,
        mlp.act,
        lanes.mlp,
    )
    return x + block.ls2(branch)


def _norm(norm: nn.Module, x: Tensor, lanes: SublayerLanes) -> Tensor:
    """The normed activations, as a constant where no subnet trains on them."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and bool(lanes.full)):
        return norm(x)
