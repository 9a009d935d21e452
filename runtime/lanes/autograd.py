"""A sub-layer of a block, lane group by lane group, as one autograd function."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from runtime.lanes.core_graph import Core
from runtime.lanes.linears import Linears
from runtime.lanes.passes import Trained, can_overwrite, lanes_backward, lanes_forward
from runtime.lanes.products import branch_buffer, compute_dtype, without_autocast
from runtime.lanes.slices import SublayerLanes


def sublayer_lanes(
    x: Tensor,
    linears: Linears,
    bias_out: Tensor | None,
    core: Core,
    lanes: SublayerLanes,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Sum of the active heads' or hidden units' outputs, plus the output bias on every sample.

    Args:
        x: normed activations ``[B, N, D]``: samples, tokens, width.
        linears: the maps in and the map out.
        bias_out: ``[D]`` or None.
        core: what stands between them.
        lanes: who runs on which samples; the results of `lanes.forward_only` are constants.
        key_mask: which tokens attention may look at, ``[B, N]``; None for all.

    Returns:
        ``[B, N, D]`` in the autocast type, or in that of `x`.
    """
    options = (core, lanes, key_mask, linears.num_maps_in)
    return _SublayerLanes.apply(x, bias_out, *options, *linears.tensors)


class _SublayerLanes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias_out: Tensor | None,
        core: Core,
        lanes: SublayerLanes,
        key_mask: Tensor | None,
        num_maps_in: int,
        *weights: Tensor | None,
    ) -> Tensor:
        ctx.lanes, ctx.shape, ctx.dtype, ctx.num_maps_in = lanes, x.shape, x.dtype, num_maps_in
        x = x.to(compute_dtype(x)).flatten(0, 1)
        with without_autocast(x):
            out = branch_buffer(x, bias_out)
            linears = Linears.like(weights, num_maps_in)
            ctx.graphs = lanes_forward(x, linears, core, lanes, ctx.shape[1], key_mask, out)
        ctx.compute_dtype = x.dtype
        ctx.save_for_backward(x if lanes.train else None, bias_out, *weights)
        return out.view(ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_branch: Tensor) -> tuple[Tensor | None, ...]:
        lanes: SublayerLanes = ctx.lanes
        x, bias_out, *weights = ctx.saved_tensors
        grad_bias_out = None
        if bias_out is not None:
            grad_bias_out = grad_branch.sum((0, 1), dtype=bias_out.dtype)
        made: tuple[Tensor | None, ...] = (None,) * len(weights)
        if not lanes.backward:
            return None, grad_bias_out, None, None, None, None, *made
        linears, trained = Linears.like(weights, ctx.num_maps_in), None
        if lanes.train:
            overwrite = can_overwrite(lanes)
            trained = Trained(x, linears.gradient_buffers(overwrite=overwrite), overwrite)
        with without_autocast(grad_branch):
            grad_branch = grad_branch.to(ctx.compute_dtype).contiguous().flatten(0, 1)
            grad_x = lanes_backward(grad_branch, linears, ctx.graphs, lanes, trained)
        if trained is not None:
            made = trained.gradients.tensors
        grad_x = grad_x.to(ctx.dtype).view(ctx.shape)
        return grad_x, grad_bias_out, None, None, None, None, *made
