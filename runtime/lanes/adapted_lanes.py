"""A sub-layer with adapters, lane group by lane group, as one autograd function."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from runtime.lanes.adapters import Adapters, AdapterSums
from runtime.lanes.passes import Core, CoreGraph, Linears, lanes_forward
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
    with torch.set_grad_enabled(torch.is_grad_enabled() and bool(lanes.full)):
        return _AdaptedLanes.apply(x, *adapters.tensors, adapters, maps, lanes, key_mask)


@torch.no_grad()
def adapted_lanes_backward(
    grad_branch: Tensor,
    x: Tensor,
    linears: Linears,
    adapters: Adapters,
    graphs: list[CoreGraph],
    sums: AdapterSums,
    lanes: SublayerLanes,
    gradients: Adapters,
    *,
    needs_dx: bool,
) -> Tensor | None:
    """Add the FULL groups' dW of adapters to `gradients`; dX, ``[T, D]``, if it is needed.

    Args:
        grad_branch: gradient of the results, ``[T, D]`` of the type of `x`; only tokens of FULL
            groups count.
        x: as in forward.
        linears: the frozen weights held.
        adapters: the factors held.
        graphs: what forward returned; emptied one by one, so that memory is freed early.
        sums: as forward left them.
        lanes: as in forward, with at least one FULL group.
        gradients: of the factors held, in their type.
        needs_dx: whether any token's gradient goes on; it is zero on all that
            ``lanes.tokens_with_dx`` leaves out.
    """
    linears, adapters = linears.to(x.dtype), adapters.to(x.dtype)
    grad_low_out, grad_low_in = torch.zeros_like(sums.low_out), torch.zeros_like(sums.low_in)
    grad_x = torch.zeros_like(x) if needs_dx else None
    with_full = lanes.tokens_with_full
    add_product_on_runs(grad_low_out, grad_branch, adapters.up_out, with_full, keep=False)
    grad_low_out.mul_(adapters.scale)
    for start, stop in with_full:
        add_product(gradients.up_out, grad_branch[start:stop].t(), sums.low_trained[start:stop])
    for group in lanes.full:
        graph = graphs.pop(0)
        result = graph.result.detach().flatten(0, 1)
        grad_result = product_of_all(grad_branch, group.columns.take(linears.weight_out, 1), group)
        down_out = group.columns.take(adapters.down_out, 1)
        add_product_of_all(grad_result, grad_low_out, down_out, group)
        if group.watch is not None:
            group.watch(result, grad_result)
        result, grad_result = group.scaled(result), group.scaled(grad_result)
        add_output_weight_gradient(gradients.down_out, grad_low_out, result, group, overwrite=False)
        grad_projected = graph.backward(grad_result)
        del graph, result, grad_result
        of_map = group.of_one_map(adapters.num_maps_in)
        for own, up, low, grad_up, grad_low in adapters.map_by_map(
            (grad_projected, 1),
            (group.rows.take(adapters.up_in, 0), 0),
            (sums.low_in, 1),
            (gradients.up_in, 0),
            (grad_low_in, 1),
        ):
            add_input_weight_gradient(grad_up, own, low, of_map, overwrite=False)
            add_product_of_own(grad_low, own, up, group)
        if grad_x is not None:
            rows = group.rows.take(linears.weight_in, 0)
            for of_all, of_own in group.dx_runs:
                add_product(grad_x[of_all], grad_projected[of_own], rows)
        del grad_projected
    grad_low_in.mul_(adapters.scale)
    for start, stop in with_full:
        add_product(gradients.down_in, grad_low_in[start:stop].t(), x[start:stop])
    if grad_x is not None:
        add_product_on_runs(grad_x, grad_low_in, adapters.down_in, lanes.tokens_with_dx)
    return grad_x


class _AdaptedLanes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        down_in: Tensor,
        up_in: Tensor,
        down_out: Tensor,
        up_out: Tensor,
        adapters: Adapters,
        maps: AdaptedMaps,
        lanes: SublayerLanes,
        key_mask: Tensor | None,
    ) -> Tensor:
        ctx.lanes, ctx.maps, ctx.shape, ctx.dtype = lanes, maps, x.shape, x.dtype
        ctx.scale, ctx.num_maps_in = adapters.scale, adapters.num_maps_in
        adapters = Adapters(down_in, up_in, down_out, up_out, ctx.scale, ctx.num_maps_in)
        x = x.to(compute_dtype(x)).flatten(0, 1)
        with without_autocast(x):
            out = branch_buffer(x, maps.bias_out)
            ctx.sums = AdapterSums(x, adapters, lanes)
            ctx.graphs = lanes_forward(
                x, maps.linears, maps.core, lanes, ctx.shape[1], key_mask, out, ctx.sums
            )
        if not lanes.full:
            del ctx.sums
        ctx.save_for_backward(x if lanes.full else None, *adapters.tensors)
        return out.view(ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_branch: Tensor) -> tuple[Tensor | None, ...]:
        x, *factors = ctx.saved_tensors
        down_in, up_in, down_out, up_out = factors
        adapters = Adapters(down_in, up_in, down_out, up_out, ctx.scale, ctx.num_maps_in)
        gradients = adapters.gradient_buffers()
        with without_autocast(grad_branch):
            grad_branch = grad_branch.to(x.dtype).contiguous().flatten(0, 1)
            grad_x = adapted_lanes_backward(
                grad_branch,
                x,
                ctx.maps.linears,
                adapters,
                ctx.graphs,
                ctx.sums,
                ctx.lanes,
                gradients,
                needs_dx=ctx.needs_input_grad[0],
            )
        if grad_x is not None:
            grad_x = grad_x.to(ctx.dtype).view(ctx.shape)
        return grad_x, *gradients.tensors, None, None, None, None
