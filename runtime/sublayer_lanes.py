"""A sub-layer of a block and its residual sum, by lane groups, as one autograd function."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from runtime.lane_math import branch_buffer, compute_dtype, sums_over_tokens, without_autocast
from runtime.lane_pass import Core, Linears, lanes_backward, lanes_forward
from runtime.lane_slices import SublayerLanes


def sublayer_lanes(
    stream: Tensor,
    x: Tensor,
    linears: Linears,
    bias_out: Tensor | None,
    scale: Tensor | None,
    core: Core,
    lanes: SublayerLanes,
    key_mask: Tensor | None = None,
) -> Tensor:
    """The stream plus ``scale`` times the active heads' or hidden units' outputs and the bias.

    Backward never makes a scaled gradient of the stream: the output weight is scaled instead, and
    so is its gradient.

    Args:
        stream: what the sub-layer is added to, ``[B, N, D]``: samples, tokens, width.
        x: what the lanes see, ``[B, N, D]``.
        linears: all the weights of the sub-layer.
        bias_out: ``[D]`` or None.
        scale: of LayerScale, ``[D]`` or None.
        core: what stands between the two linear maps.
        lanes: who runs on which samples; the results of `lanes.forward_only` are constants.
        key_mask: which tokens attention may look at, bool ``[B, N]``; None for all.

    Returns:
        ``[B, N, D]`` of the type of `stream`.
    """
    weights = (linears.weight_in, linears.bias_in, linears.weight_out)
    return _SublayerLanes.apply(stream, x, *weights, bias_out, scale, core, lanes, key_mask)


class _SublayerLanes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        stream: Tensor,
        x: Tensor,
        weight_in: Tensor,
        bias_in: Tensor | None,
        weight_out: Tensor,
        bias_out: Tensor | None,
        scale: Tensor | None,
        core: Core,
        lanes: SublayerLanes,
        key_mask: Tensor | None,
    ) -> Tensor:
        ctx.lanes, ctx.shape, ctx.dtype = lanes, x.shape, x.dtype
        num_tokens, stream = x.shape[1], stream.flatten(0, 1)
        with without_autocast(x):
            x = x.to(compute_dtype(x)).flatten(0, 1)
            if scale is None:
                branch = out = stream.clone() if bias_out is None else stream + bias_out
            else:
                branch = branch_buffer(x, bias_out)
            linears = Linears(weight_in, bias_in, weight_out)
            ctx.graphs = lanes_forward(x, linears, core, lanes, num_tokens, key_mask, branch)
            if scale is not None:
                out = torch.addcmul(stream, branch.to(stream.dtype), scale)
        kept = x if lanes.full else None, None if scale is None else branch
        ctx.save_for_backward(*kept, weight_in, bias_in, weight_out, bias_out, scale)
        return out.view(ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        lanes: SublayerLanes = ctx.lanes
        x, branch, weight_in, bias_in, weight_out, bias_out, scale = ctx.saved_tensors
        grad_rows = grad.contiguous().flatten(0, 1)
        grad_x, gradients, grad_bias_out, grad_scale = None, None, None, None
        with without_autocast(grad):
            if scale is not None:
                total, grad_scale = sums_over_tokens(grad_rows, branch.to(grad.dtype))
                grad_bias_out = None if bias_out is None else total * scale
            elif bias_out is not None:
                grad_bias_out = grad_rows.sum(0)
            if lanes.full:
                scaled = weight_out if scale is None else weight_out * scale[:, None]
                linears = Linears(weight_in, bias_in, scaled)
                gradients = linears.gradient_buffers(lanes)
                grad_rows = grad_rows.to(x.dtype)
                grad_x = lanes_backward(
                    grad_rows, x, linears, ctx.graphs, lanes, gradients, overwrite=True
                )
                grad_x = grad_x.to(ctx.dtype).view(ctx.shape)
                if scale is not None:
                    gradients.weight_out.mul_(scale[:, None])
        of_weights: tuple[Tensor | None, ...] = (None, None, None)
        if gradients is not None:
            of_weights = (gradients.weight_in, gradients.bias_in, gradients.weight_out)
        return grad, grad_x, *of_weights, grad_bias_out, grad_scale, None, None, None
