"""A sub-layer with adapters, lane group by lane group, as one autograd function."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from runtime.lanes.adapters import Adapters, AdapterSums
from runtime.lanes.core_graph import Core
from runtime.lanes.linears import Linears
from runtime.lanes.passes import Graph, lanes_forward
from runtime.lanes.products import (
    add_input_weight_gradient,
    add_output_weight_gradient,
    add_product,
    add_product_of_all,
    add_product_of_own,
    add_product_on_runs,
    branch_buffer,
    compute_dtype,
    product_of_all,
    without_autocast,
)
from runtime.lanes.slices import SublayerLanes


@dataclass(frozen=True, eq=False)
class AdaptedMaps:
    """A sub-layer's frozen maps, its frozen output bias or None, and what stands between them."""

    linears: Linears
    bias_out: Tensor | None
    core: Core


def adapted_lanes(
    x: Tensor,
    maps: AdaptedMaps,
    adapters: Adapters,
    lanes: SublayerLanes,
    key_mask: Tensor | None = None,
) -> Tensor:
    """As `runtime.lanes.autograd.sublayer_lanes`, but gradients reach `x` and adapters alone."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and bool(lanes.backward)):
        return _AdaptedLanes.apply(x, adapters.scale, maps, lanes, key_mask, *adapters.tensors)


@dataclass(frozen=True)
class TrainedAdapters:
    """What the dW of FULL groups' adapters is made of, and where it goes.

    Attributes:
        x: as in forward.
        sums: as forward left them.
        gradients: of the factors held, in their type.
    """

    x: Tensor
    sums: AdapterSums
    gradients: Adapters


@torch.no_grad()
def adapted_lanes_backward(
    grad_branch: Tensor,
    linears: Linears,
    adapters: Adapters,
    graphs: list[Graph],
    lanes: SublayerLanes,
    trained: TrainedAdapters | None,
    *,
    needs_dx: bool,
) -> Tensor | None:
    """Add the FULL groups' dW of adapters; dX of all that run backward, ``[T, D]``, if needed.

    Args:
        grad_branch: gradient of the results, ``[T, D]`` of the type that lanes compute in, or of
            its first tokens; only those of groups that run backward count.
        linears: the frozen weights held.
        adapters: the factors held.
        graphs: what forward returned; emptied one by one, so that memory is freed early.
        lanes: as in forward, with at least one group that runs backward.
        trained: for dW; None where no group is FULL.
        needs_dx: whether any token's gradient goes on; it is zero on all that
            ``lanes.tokens_with_dx`` leaves out.
    """
    linears, adapters = linears.to(grad_branch.dtype), adapters.to(grad_branch.dtype)
    num_tokens = lanes.num_tokens
    grad_low_out = grad_branch.new_zeros(num_tokens, len(adapters.down_out))
    # Of the products with the shared A of the maps in, by whether they train it.
    kinds = {group.trains for group in lanes.backward}
    kinds |= {group.masks.train_what_passes for group in lanes.backward if group.trains}
    grad_low = {
        trains: grad_branch.new_zeros(num_tokens, len(adapters.down_in)) for trains in kinds
    }
    grad_x = grad_branch.new_zeros(num_tokens, grad_branch.shape[1]) if needs_dx else None
    with_backward = lanes.tokens_with_backward
    add_product_on_runs(grad_low_out, grad_branch, adapters.up_out, with_backward, keep=False)
    grad_low_out.mul_(adapters.scale)
    if trained is not None:
        low, into = trained.sums.low_trained, trained.gradients.up_out
        for start, stop in lanes.tokens_trained:
            add_product(into, grad_branch[start:stop].t(), low[start:stop])
    for group in lanes.backward:
        graph = graphs.pop(0)(linears)
        grad_result = product_of_all(grad_branch, group.columns.take(linears.weight_out, 1), group)
        down_out = group.columns.take(adapters.down_out, 1)
        add_product_of_all(grad_result, grad_low_out, down_out, group)
        grad_result = group.passing(grad_result)
        if group.watch is not None:
            group.watch(graph.result, grad_result)
        grad_result = group.scaled(grad_result)
        if trained is not None and group.trains:
            result, into = group.training(graph.result), trained.gradients.down_out
            add_output_weight_gradient(into, grad_low_out, result, group, is_new=False)
            del result
        grad_projected, _ = graph.backward(grad_result)
        del graph, grad_result
        grad_training = group.training_rows(grad_projected) if group.trains else grad_projected
        if trained is not None and group.trains:
            for rows, own, low, into in zip(
                group.trained_rows.of_maps(adapters.num_maps_in),
                grad_training,
                adapters.of_maps(trained.sums.low_in),
                trained.gradients.ups_in,
                strict=True,
            ):
                add_input_weight_gradient(into, rows, own, low, group, is_new=False)
        by_kind = {group.trains: grad_training}
        if group.trains and not group.masks.train_what_passes:
            by_kind[False] = [
                own - training for own, training in zip(grad_projected, grad_training, strict=True)
            ]
        for trains, of_kind in by_kind.items():
            for own, up, into in zip(
                of_kind, adapters.rows_in(group), adapters.of_maps(grad_low[trains]), strict=True
            ):
                add_product_of_own(into, own, up, group)
        del by_kind, grad_training
        if grad_x is not None and group.dx_runs:
            for own, rows_in in zip(grad_projected, linears.rows_in(group), strict=True):
                for of_all, of_own in group.dx_runs:
                    add_product(grad_x[of_all], own[of_own], rows_in)
        del grad_projected
    for grad_low_in in grad_low.values():
        grad_low_in.mul_(adapters.scale)
    if trained is not None:
        for start, stop in lanes.tokens_trained:
            into = trained.gradients.down_in
            add_product(into, grad_low[True][start:stop].t(), trained.x[start:stop])
    if grad_x is not None:
        grad_low_in = reduce(torch.add, grad_low.values())
        add_product_on_runs(grad_x, grad_low_in, adapters.down_in, lanes.tokens_with_dx)
    return grad_x


class _AdaptedLanes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: float,
        maps: AdaptedMaps,
        lanes: SublayerLanes,
        key_mask: Tensor | None,
        *factors: Tensor,
    ) -> Tensor:
        ctx.lanes, ctx.maps, ctx.shape, ctx.dtype, ctx.scale = lanes, maps, x.shape, x.dtype, scale
        adapters = Adapters.like(factors, scale)
        x = x.to(compute_dtype(x)).flatten(0, 1)
        with without_autocast(x):
            out = branch_buffer(x, maps.bias_out, lanes)
            ctx.sums = AdapterSums(x, adapters, lanes)
            ctx.graphs = lanes_forward(
                x,
                maps.linears,
                maps.core,
                lanes,
                ctx.shape[1],
                key_mask,
                out,
                maps.bias_out,
                ctx.sums,
            )
        if not lanes.train:
            ctx.sums = None
        ctx.compute_dtype = x.dtype
        ctx.save_for_backward(x if lanes.train else None, *factors)
        return out.view(ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_branch: Tensor) -> tuple[Tensor | None, ...]:
        x, *factors = ctx.saved_tensors
        adapters, trained = Adapters.like(factors, ctx.scale), None
        if ctx.lanes.train:
            trained = TrainedAdapters(x, ctx.sums, adapters.gradient_buffers())
        with without_autocast(grad_branch):
            grad_branch = grad_branch.to(ctx.compute_dtype).contiguous().flatten(0, 1)
            grad_x = adapted_lanes_backward(
                grad_branch,
                ctx.maps.linears,
                adapters,
                ctx.graphs,
                ctx.lanes,
                trained,
                needs_dx=ctx.needs_input_grad[0],
            )
        if grad_x is not None:
            grad_x = grad_x.to(ctx.dtype).view(ctx.shape)
        made = (None,) * len(factors) if trained is None else trained.gradients.tensors
        return grad_x, None, None, None, None, *made
