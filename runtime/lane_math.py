"""Matrix products between all tokens of a pass and those of one lane group, slice by slice.

"All" are matrices ``[T, features]`` of every token of the pass, "own" those of a group's tokens.
Runs of tokens times runs of units are views everywhere: no weight and no gradient is copied.
"""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from runtime.lane_slices import LaneSlice, SublayerLanes
from runtime.units import Piece, Run, Units


def compute_dtype(x: Tensor) -> torch.dtype:
    """What the lanes compute in: the autocast type where autocast is on, else that of `x`."""
    device_type = x.device.type
    return torch.get_autocast_dtype(device_type) if _autocast_is_on(device_type) else x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Autocast off: the lanes choose their types themselves, in-place products included."""
    device_type = x.device.type
    if _autocast_is_on(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


def _autocast_is_on(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def add_product(out: Tensor, a: Tensor, b: Tensor, *, keep: bool = True) -> None:
    """``out = a @ b``, added to what `out` holds if `keep`; `out` may be of a wider type."""
    if out.dtype == a.dtype:
        torch.addmm(out, a, b, beta=1 if keep else 0, out=out)
    elif keep:
        out.add_(a @ b)
    else:
        out.copy_(a @ b)


def product_of_all(
    x_all: Tensor, weight: Tensor, units: Units, group: LaneSlice, bias: Tensor | None = None
) -> Tensor:
    """``x @ weight.t() + bias`` of the group's tokens and units, ``[own T, own units]``.

    Here and below `weight` is ``[all units, features]``, a view where units are columns.
    """
    y_own = x_all.new_empty(group.num_tokens, units.num_own)
    for of_all, of_own in group.token_runs:
        x_run, y_run = x_all[of_all], y_own[of_own]
        for in_weight, in_own in units.pieces:
            matrix = weight[in_weight].t()
            if bias is None:
                torch.mm(x_run, matrix, out=y_run[:, in_own])
            else:
                torch.addmm(bias[in_weight], x_run, matrix, out=y_run[:, in_own])
    return y_own


def add_product_of_all(
    y_own: Tensor, x_all: Tensor, weight: Tensor, units: Units, group: LaneSlice
) -> None:
    """Add ``x @ weight.t()`` of the group's tokens and units to `y`, ``[own T, own units]``."""
    for of_all, of_own in group.token_runs:
        x_run, y_run = x_all[of_all], y_own[of_own]
        for in_weight, in_own in units.pieces:
            add_product(y_run[:, in_own], x_run, weight[in_weight].t())


def add_product_of_own(
    out_all: Tensor,
    y_own: Tensor,
    weight: Tensor,
    units: Units,
    token_runs: tuple[Piece, ...],
    *,
    keep: bool = True,
) -> None:
    """``out = y @ weight`` on runs of the group's tokens, added to what `out` holds if `keep`."""
    for of_all, of_own in token_runs:
        out_run, y_run = out_all[of_all], y_own[of_own]
        for i, (in_weight, in_own) in enumerate(units.pieces):
            add_product(out_run, y_run[:, in_own], weight[in_weight], keep=keep or i > 0)


def add_product_on_runs(
    out_all: Tensor, x_all: Tensor, matrix: Tensor, runs: tuple[Run, ...], *, keep: bool = True
) -> None:
    """``out = x @ matrix`` on some runs of tokens, added to what `out` holds if `keep`."""
    for start, stop in runs:
        add_product(out_all[start:stop], x_all[start:stop], matrix, keep=keep)


def add_weight_gradient(
    gradient: Tensor,
    y_own: Tensor,
    x_all: Tensor,
    pieces: tuple[tuple[Piece, bool], ...],
    group: LaneSlice,
    *,
    overwrite: bool,
) -> None:
    """Add ``y.t() @ x`` of the group's tokens to its units of `gradient`.

    Args:
        gradient: of the weight, ``[all units, features]``.
        y_own: ``[own T, own units]``.
        x_all: ``[T, features]``.
        pieces: `LaneSlice.row_gradients` or `LaneSlice.column_gradients`.
        group: whose tokens they are.
        overwrite: what `gradient` holds is of no account where a piece is trained first.
    """
    for (in_weight, in_own), is_first in pieces:
        target, keep = gradient[in_weight], not (overwrite and is_first)
        for i, (of_all, of_own) in enumerate(group.token_runs):
            add_product(target, y_own[of_own, in_own].t(), x_all[of_all], keep=keep or i > 0)


def branch_buffer(x: Tensor, bias: Tensor | None) -> Tensor:
    """What lane groups add their results to: the output bias on every token, or zeros."""
    if bias is None:
        return torch.zeros_like(x)
    return bias.to(x.dtype).expand(x.shape).contiguous()


def input_gradient_buffer(x: Tensor, lanes: SublayerLanes) -> Tensor:
    """What lane groups write dX to, or add it to unless ``lanes.full_is_disjoint``."""
    if not lanes.full_is_disjoint:
        return torch.zeros_like(x)
    gradient = torch.empty_like(x)
    for start, stop in lanes.tokens_without_full:
        gradient[start:stop].zero_()
    return gradient


def parameter_gradient_buffer(parameter: Tensor, dim: int, untrained: Units | None) -> Tensor:
    """What lane groups write dW to: zeros for the units along `dim` that none of them trains."""
    if untrained is None:
        return torch.zeros_like(parameter)
    gradient = torch.empty_like(parameter)
    for in_weight, _ in untrained.pieces:
        gradient.narrow(dim, in_weight.start, in_weight.stop - in_weight.start).zero_()
    return gradient


def sums_over_tokens(grad: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """``grad.sum(0)`` and ``(grad * values).sum(0)``, ``[D]`` each, of ``[T, D]`` in one pass.

    A norm whose mean is 0 and deviation 1 has them as the gradients of its bias and weight.
    """
    width = grad.shape[1]
    mean, inverse_deviation = grad.new_zeros(len(grad), 1), grad.new_ones(len(grad), 1)
    vector = grad.new_empty(width)
    _, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
        grad, values, [width], mean, inverse_deviation, vector, vector, [False, True, True]
    )
    return of_bias, of_weight
