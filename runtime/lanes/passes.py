"""The lane groups of a sub-layer, forward and backward, without autograd around them.

Attention and MLP have the same form: a linear map in, a core without parameters, a linear map out.
The linear maps are differentiated by hand, so that every group's dX and dW goes straight into one
buffer; the core keeps a small autograd graph, so that torch picks its kernel on every device.
Shapes: T tokens, N tokens of a sample, D width; a group has b samples, r rows of the input weight
and c columns of the output weight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.lanes.adapters import AdapterSums
from runtime.lanes.products import (
    add_input_weight_gradient,
    add_output_weight_gradient,
    add_product_of_own,
    input_gradient_buffer,
    parameter_gradient_buffer,
    product_of_all,
)
from runtime.lanes.slices import LaneSlice, SublayerLanes

Core = Callable[[Tensor, Tensor | None], Tensor]
"""From ``[b, N, r]``, and which tokens may be looked at, bool ``[b, N]`` or None for all, to
``[b, N, c]``: `attention_core`, or an `elementwise_core`."""


def attention_core(qkv: Tensor, key_mask: Tensor | None, *, head_dim: int) -> Tensor:
    """Softmax attention of stacked queries, keys and values ``[b, N, 3 * heads * head_dim]``."""
    query, key, value = (
        part.transpose(1, 2) for part in qkv.unflatten(-1, (3, -1, head_dim)).unbind(2)
    )
    mask = None if key_mask is None else key_mask[:, None, None, :]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)


def elementwise_core(activation: Callable[[Tensor], Tensor]) -> Core:
    """An activation function as a core."""
    return lambda projected, key_mask: activation(projected)


@dataclass(frozen=True)
class Linears:
    """The linear maps of a sub-layer or the part of them that is held, or their gradients.

    Attributes:
        weight_in: ``[rows, D]``; for attention queries before keys before values.
        bias_in: ``[rows]`` or None.
        weight_out: ``[D, columns]``.
    """

    weight_in: Tensor
    bias_in: Tensor | None
    weight_out: Tensor

    def to(self, dtype: torch.dtype) -> "Linears":
        """In another type; themselves if they have it."""
        bias_in = None if self.bias_in is None else self.bias_in.to(dtype)
        return Linears(self.weight_in.to(dtype), bias_in, self.weight_out.to(dtype))

    def gradient_buffers(self, *, overwrite: bool) -> "Linears":
        """What `lanes_backward` adds to: zeros, or anything if it is told to overwrite."""
        return Linears(
            parameter_gradient_buffer(self.weight_in, overwrite),
            None if self.bias_in is None else torch.zeros_like(self.bias_in),
            parameter_gradient_buffer(self.weight_out, overwrite),
        )


@dataclass(frozen=True)
class CoreGraph:
    """``result = core(projected)`` of a FULL group, where `projected` is a leaf."""

    projected: Tensor
    result: Tensor

    def backward(self, grad_result: Tensor) -> Tensor:
        """From the gradient of the result ``[own T, c]`` to that of `projected`, ``[own T, r]``."""
        grad_result = grad_result.view(self.result.shape)
        torch.autograd.backward(self.result, grad_result, inputs=[self.projected])
        assert self.projected.grad is not None
        return self.projected.grad.flatten(0, 1)


def can_overwrite(lanes: SublayerLanes) -> bool:
    """Whether the first FULL group fills the whole gradient of the weights held."""
    return bool(lanes.full) and lanes.full[0].columns.is_all


@torch.no_grad()
def lanes_forward(
    x: Tensor,
    linears: Linears,
    core: Core,
    lanes: SublayerLanes,
    num_tokens: int,
    key_mask: Tensor | None,
    out: Tensor,
    adapters: AdapterSums | None = None,
) -> list[CoreGraph]:
    """Add the results of all groups to `out`; what the FULL ones keep for backward.

    Args:
        x: normed activations ``[T, D]``, without graph.
        linears: the weights held, of any type.
        core: what stands between the two linear maps.
        lanes: who runs on which samples.
        num_tokens: N.
        key_mask: which tokens attention may look at, bool ``[B, N]``; None for all.
        out: ``[T, D]`` of the type of `x`.
        adapters: begun with `x`; filled for backward.
    """
    linears = linears.to(x.dtype)
    run = partial(_forward, x, linears, core, adapters)
    for group in lanes.forward_only:
        run(group, num_tokens, key_mask, out, keep_graph=False)
    graphs = [run(group, num_tokens, key_mask, out, keep_graph=True) for group in lanes.full]
    if adapters is not None:
        adapters.finish(out)
    return graphs


@torch.no_grad()
def lanes_backward(
    grad_branch: Tensor,
    x: Tensor,
    linears: Linears,
    graphs: list[CoreGraph],
    lanes: SublayerLanes,
    gradients: Linears,
    *,
    overwrite: bool,
) -> Tensor:
    """Add the FULL groups' dW to `gradients`; their dX, ``[T, D]``, zero on all other tokens.

    Args:
        grad_branch: gradient of the results, ``[T, D]`` of the type of `x`; only tokens of FULL
            groups count.
        x: as in forward.
        linears: as in forward.
        graphs: what forward returned; emptied one by one, so that memory is freed early.
        lanes: as in forward, with at least one FULL group.
        gradients: of the weights held, in the weights' type.
        overwrite: the gradients hold nothing yet; only where `can_overwrite` says so.
    """
    linears = linears.to(x.dtype)
    grad_x = input_gradient_buffer(x, lanes)
    for i, group in enumerate(lanes.full):
        first = overwrite and i == 0
        graph = graphs.pop(0)
        result = graph.result.detach().flatten(0, 1)
        columns = group.columns.take(linears.weight_out, 1)
        grad_result = product_of_all(grad_branch, columns, group)
        if group.watch is not None:
            group.watch(result, grad_result)
        result, grad_result = group.scaled(result), group.scaled(grad_result)
        add_output_weight_gradient(
            gradients.weight_out, grad_branch, result, group, overwrite=first
        )
        grad_projected = graph.backward(grad_result)
        del graph, result, grad_result
        add_input_weight_gradient(gradients.weight_in, grad_projected, x, group, overwrite=first)
        if gradients.bias_in is not None:
            part = grad_projected.sum(0, dtype=gradients.bias_in.dtype)
            group.rows.add_to(gradients.bias_in, 0, part)
        rows = group.rows.take(linears.weight_in, 0)
        keep = not lanes.full_is_disjoint
        add_product_of_own(grad_x, grad_projected, rows, group, keep=keep)
        del grad_projected
    return grad_x


def _forward(
    x: Tensor,
    linears: Linears,
    core: Core,
    adapters: AdapterSums | None,
    group: LaneSlice,
    num_tokens: int,
    key_mask: Tensor | None,
    out: Tensor,
    *,
    keep_graph: bool,
) -> CoreGraph:
    """Add the group's output to `out`; `x` and `out` are ``[T, D]`` of all tokens."""
    rows = group.rows.take(linears.weight_in, 0)
    bias = None if linears.bias_in is None else group.rows.take(linears.bias_in, 0)
    projected = product_of_all(x, rows.t(), group, bias)
    if adapters is not None:
        adapters.add_to_projected(projected, group)
    projected = projected.view(group.num_samples, num_tokens, -1).requires_grad_(keep_graph)
    if key_mask is not None:
        key_mask = group.of_samples(key_mask, num_tokens)
    with torch.set_grad_enabled(keep_graph):
        result = core(projected, key_mask)
    columns = group.columns.take(linears.weight_out, 1)
    own_result = result.detach().flatten(0, 1)
    add_product_of_own(out, own_result, columns.t(), group)
    if adapters is not None:
        adapters.add_result(own_result, group, is_full=keep_graph)
    return CoreGraph(projected, result)
