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
from torch.autograd.graph import GradientEdge, get_gradient_edge

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


def attention_core(
    qkv: Tensor, key_mask: Tensor | None, *, head_dim: int, dropout: float = 0.0
) -> Tensor:
    """Softmax attention of stacked queries, keys and values ``[b, N, 3 * heads * head_dim]``.

    `dropout` is the share of the weights of attention that is drawn to be zero.
    """
    query, key, value = (
        part.transpose(1, 2) for part in qkv.unflatten(-1, (3, -1, head_dim)).unbind(2)
    )
    mask = None if key_mask is None else key_mask[:, None, None, :]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
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
    """``core(projected)`` of a group that runs backward, where `projected` is a leaf.

    Attributes:
        projected: ``[b, N, r]``.
        end: of the graph.
        kept_result: ``[own T, c]``, without graph; None where backward does not read it.
    """

    projected: Tensor
    end: GradientEdge
    kept_result: Tensor | None

    @property
    def result(self) -> Tensor:
        assert self.kept_result is not None
        return self.kept_result

    def backward(self, grad_result: Tensor) -> Tensor:
        """From the gradient of the result ``[own T, c]`` to that of `projected`, ``[own T, r]``."""
        grad_result = grad_result.view(*self.projected.shape[:2], -1)
        torch.autograd.backward(self.end, grad_result, inputs=[self.projected])
        assert self.projected.grad is not None
        return self.projected.grad.flatten(0, 1)


@dataclass(frozen=True)
class Trained:
    """What the dW of FULL groups is made of, and where it goes.

    Attributes:
        x: as in forward.
        gradients: of the weights held, in the weights' type.
        overwrite: they hold nothing yet; only where `can_overwrite` says so.
    """

    x: Tensor
    gradients: Linears
    overwrite: bool

    def add_output(self, grad_branch: Tensor, result: Tensor, group: LaneSlice, i: int) -> None:
        """For the map out, of the i-th group."""
        add_output_weight_gradient(
            self.gradients.weight_out,
            grad_branch,
            result,
            group,
            overwrite=self.overwrite and i == 0,
        )

    def add_input(self, grad_projected: Tensor, group: LaneSlice, i: int) -> None:
        """For the map in, of the i-th group."""
        weight, bias = self.gradients.weight_in, self.gradients.bias_in
        overwrite = self.overwrite and i == 0
        add_input_weight_gradient(weight, grad_projected, self.x, group, overwrite=overwrite)
        if bias is not None:
            group.rows.add_to(bias, 0, grad_projected.sum(0, dtype=bias.dtype))


def can_overwrite(lanes: SublayerLanes) -> bool:
    """Whether the first group fills the whole gradient of the weights held."""
    return lanes.train and lanes.backward[0].columns.is_all


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
    """Add the results of all groups to `out`; what those that run backward keep for it.

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
    graphs = [run(group, num_tokens, key_mask, out, keep_graph=True) for group in lanes.backward]
    if adapters is not None:
        adapters.finish(out)
    return [graph for graph in graphs if graph is not None]


@torch.no_grad()
def lanes_backward(
    grad_branch: Tensor,
    linears: Linears,
    graphs: list[CoreGraph],
    lanes: SublayerLanes,
    trained: Trained | None,
) -> Tensor:
    """Add the FULL groups' dW; dX of all that run backward, ``[T, D]``, zero on other tokens.

    Args:
        grad_branch: gradient of the results, ``[T, D]`` of the type that lanes compute in, or of
            its first tokens; only those of groups that run backward count.
        linears: as in forward.
        graphs: what forward returned; emptied one by one, so that memory is freed early.
        lanes: as in forward, with at least one group that runs backward.
        trained: for dW; None where no group is FULL.
    """
    linears = linears.to(grad_branch.dtype)
    grad_x = input_gradient_buffer(grad_branch, lanes)
    for i, group in enumerate(lanes.backward):
        graph = graphs.pop(0)
        columns = group.columns.take(linears.weight_out, 1)
        grad_result = product_of_all(grad_branch, columns, group)
        if group.watch is not None:
            group.watch(graph.result, grad_result)
        grad_result = group.scaled(grad_result)
        if trained is not None and group.trains:
            trained.add_output(grad_branch, group.scaled(graph.result), group, i)
        grad_projected = graph.backward(grad_result)
        del graph, grad_result
        if trained is not None and group.trains:
            trained.add_input(grad_projected, group, i)
        rows = group.rows.take(linears.weight_in, 0)
        keep = not lanes.backward_is_disjoint
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
) -> CoreGraph | None:
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
        adapters.add_result(own_result, group)
    if not keep_graph:
        return None
    kept = own_result if group.keeps_result else None
    return CoreGraph(projected, get_gradient_edge(result), kept)
