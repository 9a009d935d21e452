"""A sub-layer of a block, lane group by lane group, as one autograd function."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from runtime.lanes.passes import (
    Core,
    Linears,
    Trained,
    lanes_backward,
    lanes_forward,
)
from runtime.lanes.products import branch_buffer, compute_dtype, without_autocast
from runtime.lanes.slices import SublayerLanes


def sublayer_lanes(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    core: Core,
    lanes: SublayerLanes,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Sum of the active heads' or hidden units' outputs, plus the output bias on every sample.

    Args:
        x: normed activations ``[B, N, D]``: samples, tokens, width.
        weight_in: ``[rows, D]``; for attention queries before keys before values.
        bias_in: ``[rows]`` or None.
        weight_out: ``[D, columns]``.
        bias_out: ``[D]`` or None.
        core: what stands between the two linear maps.
        lanes: who runs on which samples; the results of `lanes.forward_only` are constants.
        key_mask: which tokens attention may look at, bool ``[B, N]``; None for all.

    Returns:
        ``[B, N, D]`` in the autocast type, or in that of `x`.
    """
    return _SublayerLanes.apply(x, weight_in, bias_in, weight_out, bias_out, core, lanes, key_mask)


class _SublayerLanes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_in: Tensor,
        bias_in: Tensor | None,
        weight_out: Tensor,
        bias_out: Tensor | None,
        core: Core,
        lanes: SublayerLanes,
        key_mask: Tensor | None,
    ) -> Tensor:
        ctx.lanes, ctx.shape, ctx.dtype = lanes, x.shape, x.dtype
        x = x.to(compute_dtype(x)).flatten(0, 1)
        with without_autocast(x):
            out = branch_buffer(x, bias_out, lanes)
            linears = Linears(weight_in, bias_in, weight_out)
            ctx.graphs = lanes_forward(
                x, linears, core, lanes, ctx.shape[1], key_mask, out, bias_out
            )
        ctx.compute_dtype = x.dtype
        ctx.save_for_backward(x if lanes.train else None, weight_in, bias_in, weight_out, bias_out)
        return out.view(ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_branch: Tensor) -> tuple[Tensor | None, ...]:
        lanes: SublayerLanes = ctx.lanes
        x, weight_in, bias_in, weight_out, bias_out = ctx.saved_tensors
        grad_bias_out = None
        if bias_out is not None:
            grad_bias_out = grad_branch.sum((0, 1), dtype=bias_out.dtype)
        if not lanes.backward:
            return None, None, None, None, grad_bias_out, None, None, None
        linears, trained = Linears(weight_in, bias_in, weight_out), None
        if lanes.train:
            trained = Trained(x, linears.gradient_buffers(lanes), are_new=True)
        with without_autocast(grad_branch):
            grad_branch = grad_branch.to(ctx.compute_dtype).contiguous().flatten(0, 1)
            grad_x = lanes_backward(grad_branch, linears, ctx.graphs, lanes, trained)
        made: tuple[Tensor | None, ...] = (None, None, None)
        if trained is not None:
            into = trained.gradients
            made = into.weight_in, into.bias_in, into.weight_out
        grad_x = grad_x.to(ctx.dtype).view(ctx.shape)
        return grad_x, *made, grad_bias_out, None, None, None
