"""A sub-layer of a block, lane group by lane group, as one autograd function.

Attention and MLP have the same form: a linear map in, a core without parameters, a linear map out.
The linear maps are differentiated by hand, so that every group's dX and dW goes straight into one
buffer; the core keeps a small autograd graph, so that torch picks its kernel on every device.
Shapes: B samples, N tokens, D width; a group has b of the samples, r rows of the input weight and c
columns of the output weight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from runtime.lane_math import (
    add_input_weight_gradient,
    add_output_weight_gradient,
    add_product_of_own,
    branch_buffer,
    compute_dtype,
    input_gradient_buffer,
    parameter_gradient_buffer,
    product_of_all,
    without_autocast,
)
from runtime.lane_slices import LaneSlice, SublayerLanes

Core = Callable[[Tensor], Tensor]
"""From ``[b, N, r]`` to ``[b, N, c]``: `attention_core`, or an elementwise activation."""


def attention_core(qkv: Tensor, head_dim: int) -> Tensor:
    """Softmax attention of stacked queries, keys and values ``[b, N, 3 * heads * head_dim]``."""
    parts = qkv.unflatten(-1, (3, -1, head_dim)).unbind(2)
    mixed = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))
    return mixed.transpose(1, 2).flatten(2)


def sublayer_lanes(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    core: Core,
    lanes: SublayerLanes,
) -> Tensor:
    """Sum of the active heads' or hidden units' outputs, plus the output bias on every sample.

    Args:
        x: normed activations ``[B, N, D]``.
        weight_in: ``[rows, D]``; for attention queries before keys before values.
        bias_in: ``[rows]`` or None.
        weight_out: ``[D, columns]``.
        bias_out: ``[D]`` or None.
        core: what stands between the two linear maps.
        lanes: who runs on which samples; the results of `lanes.forward_only` are constants.

    Returns:
        ``[B, N, D]`` in the autocast type, or in that of `x`.
    """
    return _SublayerLanes.apply(x, weight_in, bias_in, weight_out, bias_out, core, lanes)


@dataclass(frozen=True)
class _CoreGraph:
    """``result = core(projected)`` of a group, where `projected` is a leaf."""

    projected: Tensor
    result: Tensor

    def backward(self, grad_result: Tensor) -> Tensor:
        """From the gradient of the result ``[own T, c]`` to that of `projected`, ``[own T, r]``."""
        grad_result = grad_result.view(self.result.shape)
        torch.autograd.backward(self.result, grad_result, inputs=[self.projected])
        assert self.projected.grad is not None
        return self.projected.grad.flatten(0, 1)


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
    ) -> Tensor:
        ctx.lanes, ctx.shape, ctx.dtype = lanes, x.shape, x.dtype
        with without_autocast(x):
            x = x.to(compute_dtype(x)).flatten(0, 1)
            out = branch_buffer(x, bias_out)
            linears = _Linears(
                weight_in.to(x.dtype),
                None if bias_in is None else bias_in.to(x.dtype),
                weight_out.to(x.dtype),
            )
            num_tokens = ctx.shape[1]
            for group in lanes.forward_only:
                _forward(x, linears, core, group, num_tokens, out, keep_graph=False)
            ctx.graphs = [
                _forward(x, linears, core, group, num_tokens, out, keep_graph=True)
                for group in lanes.full
            ]
        ctx.save_for_backward(x if lanes.full else None, weight_in, bias_in, weight_out, bias_out)
        return out.view(ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_branch: Tensor) -> tuple[Tensor | None, ...]:
        lanes: SublayerLanes = ctx.lanes
        x, weight_in, bias_in, weight_out, bias_out = ctx.saved_tensors
        grad_bias_out = None
        if bias_out is not None:
            grad_bias_out = grad_branch.sum((0, 1), dtype=bias_out.dtype)
        if not lanes.full:
            return None, None, None, None, grad_bias_out, None, None
        covers_all = lanes.full[0].columns.is_all
        grad_in = parameter_gradient_buffer(weight_in, covers_all)
        grad_bias_in = None if bias_in is None else torch.zeros_like(bias_in)
        grad_out = parameter_gradient_buffer(weight_out, covers_all)
        with without_autocast(grad_branch):
            grad_branch = grad_branch.to(x.dtype).contiguous().flatten(0, 1)
            weight_in, weight_out = weight_in.to(x.dtype), weight_out.to(x.dtype)
            grad_x = input_gradient_buffer(x, lanes)
            for i, group in enumerate(lanes.full):
                overwrite = covers_all and i == 0
                graph, ctx.graphs[i] = ctx.graphs[i], None
                result = graph.result.detach().flatten(0, 1)
                add_output_weight_gradient(
                    grad_out, grad_branch, result, group, overwrite=overwrite
                )
                columns = group.columns.take(weight_out, 1)
                grad_projected = graph.backward(product_of_all(grad_branch, columns, group))
                del graph, result
                add_input_weight_gradient(grad_in, grad_projected, x, group, overwrite=overwrite)
                if grad_bias_in is not None:
                    part = grad_projected.sum(0, dtype=grad_bias_in.dtype)
                    group.rows.add_to(grad_bias_in, 0, part)
                rows = group.rows.take(weight_in, 0)
                keep = not lanes.full_is_disjoint
                add_product_of_own(grad_x, grad_projected, rows, group, keep=keep)
                del grad_projected
        grad_x = grad_x.to(ctx.dtype).view(ctx.shape)
        return grad_x, grad_in, grad_bias_in, grad_out, grad_bias_out, None, None


@dataclass(frozen=True)
class _Linears:
    weight_in: Tensor
    bias_in: Tensor | None
    weight_out: Tensor


def _forward(
    x: Tensor,
    linears: _Linears,
    core: Core,
    group: LaneSlice,
    num_tokens: int,
    out: Tensor,
    *,
    keep_graph: bool,
) -> _CoreGraph:
    """Add the group's output to `out`; `x` and `out` are ``[T, D]`` of all tokens."""
    rows = group.rows.take(linears.weight_in, 0)
    bias = None if linears.bias_in is None else group.rows.take(linears.bias_in, 0)
    projected = product_of_all(x, rows.t(), group, bias)
    projected = projected.view(group.num_samples, num_tokens, -1).requires_grad_(keep_graph)
    with torch.set_grad_enabled(keep_graph):
        result = core(projected)
    columns = group.columns.take(linears.weight_out, 1)
    add_product_of_own(out, result.detach().flatten(0, 1), columns.t(), group)
    return _CoreGraph(projected, result)
