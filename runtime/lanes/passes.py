"""The lane groups of a sub-layer, forward and backward, without autograd around them.

Attention and MLP have the same form: linear maps in, a core, a linear map out.
The linear maps are differentiated by hand, so that every group's dX and dW goes straight into one
buffer; the core keeps a small autograd graph, so that torch picks its kernel on every device.
Shapes: T tokens, N tokens of a sample, D width; a group has b samples, r rows of the input weight
and c columns of the output weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from runtime.lanes.adapters import AdapterSums
from runtime.lanes.core_graph import Core, CoreGraph, run_core
from runtime.lanes.linears import Linears
from runtime.lanes.products import (
    add_output_weight_gradient,
    add_product_of_own,
    begin_branch,
    input_gradient_buffer,
    product_of_all,
)
from runtime.lanes.slices import LaneSlice, SublayerLanes

Graph = Callable[[Linears], CoreGraph]
"""A group's graph as forward kept it, or made again from these weights, in the type of lanes."""


@dataclass(frozen=True)
class Trained:
    """What the dW of FULL groups is made of, and where it goes.

    Attributes:
        x: as in forward.
        gradients: of the weights held, in the weights' type.
        are_new: they hold nothing yet, made by `Linears.gradient_buffers`.
    """

    x: Tensor
    gradients: Linears
    are_new: bool

    def add_output(self, grad_branch: Tensor, result: Tensor, group: LaneSlice) -> None:
        """For the map out, of a group."""
        weight = self.gradients.weight_out
        add_output_weight_gradient(weight, grad_branch, result, group, is_new=self.are_new)

    def add_input(
        self,
        grad_projected: Sequence[Tensor],
        grad_in_core: Sequence[Tensor],
        group: LaneSlice,
    ) -> None:
        """For the maps in and the core, of a group."""
        self.gradients.add_input_gradients(grad_projected, self.x, group, is_new=self.are_new)
        for into, grad in zip(self.gradients.in_core, grad_in_core, strict=True):
            into.add_(grad)


@torch.no_grad()
def lanes_forward(
    x: Tensor,
    linears: Linears,
    core: Core,
    lanes: SublayerLanes,
    num_tokens: int,
    key_mask: Tensor | None,
    out: Tensor,
    bias_out: Tensor | None = None,
    adapters: AdapterSums | None = None,
) -> list[Graph]:
    """Add the results of all groups to `out`; what those that run backward keep for it.

    Args:
        x: normed activations ``[T, D]``, without graph.
        linears: the weights held, of any type.
        core: what stands between the linear maps.
        lanes: who runs on which samples.
        num_tokens: N.
        key_mask: which tokens attention may look at, ``[B, N]``; None for all.
        out: ``[T, D]`` of the type of `x`, made by `branch_buffer`.
        bias_out: that it holds, or would hold if ``lanes.begins`` did not leave it empty.
        adapters: begun with `x`; filled for backward.
    """
    linears, graphs = linears.to(x.dtype), list[Graph]()
    run = partial(_run, x, core, num_tokens, key_mask, adapters)

    def add(result: Tensor, group: LaneSlice, *, is_kept: bool, is_first: bool) -> None:
        columns = group.columns.take(linears.weight_out, 1)
        is_read_again = adapters is not None and group.trains and not group.trains_what_runs
        given = group.running(result, in_place=not (is_kept or is_read_again))
        if is_first and lanes.begins:
            begin_branch(out, given, columns.t(), bias_out)
        else:
            add_product_of_own(out, given, columns.t(), group)
        if adapters is not None:
            adapters.add_result(result, given, group)

    for i, group in enumerate(lanes.forward_only):
        result, _ = run(linears, group, keep_graph=False)
        add(result, group, is_kept=False, is_first=i == 0)
    for i, group in enumerate(lanes.backward):
        result, graph = run(linears, group, keep_graph=not lanes.recomputes)
        is_first = i == 0 and not lanes.forward_only
        add(result, group, is_kept=graph is not None, is_first=is_first)
        graphs.append(partial(_graph_again, run, group) if graph is None else _kept(graph))
    if adapters is not None:
        adapters.finish(out)
    return graphs


@torch.no_grad()
def lanes_backward(
    grad_branch: Tensor,
    linears: Linears,
    graphs: list[Graph],
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
    held, linears = linears, linears.to(grad_branch.dtype)
    grad_x = input_gradient_buffer(grad_branch, lanes)
    for group in lanes.backward:
        graph = graphs.pop(0)(linears)
        columns = group.columns.take(linears.weight_out, 1)
        grad_result = group.passing(product_of_all(grad_branch, columns, group))
        if group.watch is not None:
            group.watch(graph.result, grad_result)
        grad_result = group.scaled(grad_result)
        trains = trained is not None and group.trains
        if trained is not None and group.trains:
            trained.add_output(grad_branch, group.training(graph.result), group)
        in_core = held.in_core if trains else ()
        grad_projected, grad_in_core = graph.backward(grad_result, in_core)
        del graph, grad_result
        if trained is not None and group.trains:
            trained.add_input(group.training_rows(grad_projected), grad_in_core, group)
        keep = not lanes.backward_is_disjoint
        for rows in linears.rows_in(group):
            add_product_of_own(grad_x, grad_projected.pop(0), rows, group, keep=keep)
            keep = True
    return grad_x


def _run(
    x: Tensor,
    core: Core,
    num_tokens: int,
    key_mask: Tensor | None,
    adapters: AdapterSums | None,
    linears: Linears,
    group: LaneSlice,
    *,
    keep_graph: bool,
) -> tuple[Tensor, CoreGraph | None]:
    """As `run_core`, of one group from the activations of all tokens, ``[T, D]``."""
    projected = linears.project(x, group)
    if adapters is not None:
        adapters.add_to_projected(projected, group)
    result, graph = run_core(
        [part.view(group.num_samples, num_tokens, -1) for part in projected],
        None if key_mask is None else group.of_samples(key_mask, num_tokens),
        core,
        keep_graph=keep_graph,
        keep_result=group.keeps_result,
    )
    if graph is not None and graph.kept_result is not None:
        graph = replace(graph, kept_result=group.kept_of(graph.kept_result))
    return result, graph


def _kept(graph: CoreGraph) -> Graph:
    return lambda linears: graph


def _graph_again(
    run: Callable[..., tuple[Tensor, CoreGraph | None]], group: LaneSlice, linears: Linears
) -> CoreGraph:
    _, graph = run(linears, group, keep_graph=True)
    assert graph is not None
    return graph
