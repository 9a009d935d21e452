"""Matrix products between all tokens of a pass and those of one lane group, slice by slice.

"All" are matrices ``[T, features]`` of every token of the pass, "own" those of a group's tokens.
"""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from runtime.lanes.slices import LaneSlice, SublayerLanes
from runtime.lanes.units import Run, Units, UnitsWithin


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
    x_all: Tensor, matrix: Tensor, group: LaneSlice, bias: Tensor | None = None
) -> Tensor:
    """``x @ matrix + bias`` of the group's tokens, ``[own T, matrix.shape[1]]``."""
    runs = group.token_runs
    if len(runs) == 1:
        x_own = x_all[runs[0][0]]
        return x_own @ matrix if bias is None else torch.addmm(bias, x_own, matrix)
    y_own = x_all.new_empty(runs[-1][1].stop, matrix.shape[1])
    for of_all, of_own in runs:
        if bias is None:
            torch.mm(x_all[of_all], matrix, out=y_own[of_own])
        else:
            torch.addmm(bias, x_all[of_all], matrix, out=y_own[of_own])
    return y_own


def add_product_of_own(
    out_all: Tensor, y_own: Tensor, matrix: Tensor, group: LaneSlice, *, keep: bool = True
) -> None:
    """``out = y @ matrix`` on the group's tokens, added to what `out` holds if `keep`."""
    for of_all, of_own in group.token_runs:
        add_product(out_all[of_all], y_own[of_own], matrix, keep=keep)


def add_product_on_runs(
    out_all: Tensor, x_all: Tensor, matrix: Tensor, runs: tuple[Run, ...], *, keep: bool = True
) -> None:
    """``out = x @ matrix`` on some runs of tokens, added to what `out` holds if `keep`."""
    for start, stop in runs:
        add_product(out_all[start:stop], x_all[start:stop], matrix, keep=keep)


def add_product_of_all(y_own: Tensor, x_all: Tensor, matrix: Tensor, group: LaneSlice) -> None:
    """Add ``x @ matrix`` of the group's tokens to `y`, ``[own T, matrix.shape[1]]``."""
    for of_all, of_own in group.token_runs:
        add_product(y_own[of_own], x_all[of_all], matrix)


def add_input_weight_gradient(
    gradient: Tensor,
    rows: UnitsWithin,
    grad_own: Tensor,
    x_all: Tensor,
    group: LaneSlice,
    *,
    is_new: bool,
) -> None:
    """Add the dW of a linear map from all tokens to `rows` of `gradient`, of the group's.

    If `is_new`, nothing is there yet but where a group before this one has written.
    """
    pairs = [(grad_own[of_own].t(), x_all[of_all]) for of_all, of_own in group.token_runs]
    _add_weight_gradient(gradient, 0, rows, group, pairs, is_new)


def add_output_weight_gradient(
    gradient: Tensor, grad_all: Tensor, y_own: Tensor, group: LaneSlice, *, is_new: bool
) -> None:
    """The same for a linear map from the group's tokens, and what of its columns trains."""
    pairs = [(grad_all[of_all].t(), y_own[of_own]) for of_all, of_own in group.token_runs]
    _add_weight_gradient(gradient, 1, group.trained_columns, group, pairs, is_new)


def add_bias_gradient(
    gradient: Tensor, rows: UnitsWithin, grad_own: Tensor, group: LaneSlice, *, is_new: bool
) -> None:
    """The same for the bias of a linear map from all tokens."""
    places, parts = rows.in_weight.places(gradient, 0), rows.taken(grad_own, 1)
    for place, part, keeps in zip(places, parts, _keeps(group, places, is_new), strict=True):
        if keeps:
            place.add_(part.sum(0, dtype=place.dtype))
        else:
            torch.sum(part, 0, dtype=place.dtype, out=place)


def _add_weight_gradient(
    gradient: Tensor,
    dim: int,
    units: UnitsWithin,
    group: LaneSlice,
    pairs: list[tuple[Tensor, Tensor]],
    is_new: bool,
) -> None:
    places = units.in_weight.places(gradient, dim)
    keeps = _keeps(group, places, is_new)
    if len(pairs) > 1 and len(places) > 2:
        sizes = [place.shape[dim] for place in places]
        factors = [list(pair) for pair in pairs]
        for own in factors:
            own[dim] = units.in_group.take(own[dim], dim)
        product = factors[0][0] @ factors[0][1]
        for left, right in factors[1:]:
            add_product(product, left, right)
        for place, part, keep in zip(places, product.split(sizes, dim), keeps, strict=True):
            (place.add_ if keep else place.copy_)(part)
        return
    for i, pair in enumerate(pairs):
        parts = list(pair)
        taken = units.taken(parts[dim], dim)
        for place, part, keep in zip(places, taken, keeps, strict=True):
            parts[dim] = part
            add_product(place, *parts, keep=keep or i > 0)


def _keeps(group: LaneSlice, places: list[Tensor], is_new: bool) -> list[bool]:
    """Whether each place holds what is added to."""
    first = group.is_first if is_new else [False] * len(group.is_first)
    return [not one for one in first] * (len(places) // len(first))


def branch_buffer(x: Tensor, bias: Tensor | None, lanes: SublayerLanes) -> Tensor:
    """What lane groups add their results to: the output bias on every token, or zeros; anything
    where the first of them fills all of it."""
    if lanes.begins:
        return torch.empty_like(x)
    if bias is None:
        return torch.zeros_like(x)
    return bias.to(x.dtype).expand(x.shape).contiguous()


def begin_branch(out: Tensor, y: Tensor, matrix: Tensor, bias: Tensor | None) -> None:
    """``out = y @ matrix + bias`` on all tokens."""
    if bias is None:
        torch.mm(y, matrix, out=out)
    else:
        torch.addmm(bias.to(y.dtype), y, matrix, out=out)


def input_gradient_buffer(grad_branch: Tensor, lanes: SublayerLanes) -> Tensor:
    """What lane groups write dX to, or add it to unless ``lanes.backward_is_disjoint``."""
    size = (lanes.num_tokens, grad_branch.shape[1])
    if not lanes.backward_is_disjoint:
        return grad_branch.new_zeros(size)
    gradient = grad_branch.new_empty(size)
    for start, stop in lanes.tokens_without_backward:
        gradient[start:stop].zero_()
    return gradient


def parameter_gradient_buffer(parameter: Tensor, untrained: Units | None, dim: int) -> Tensor:
    """What lane groups write dW to: zeros where they do not, or add to it."""
    gradient = torch.empty_like(parameter)
    clear_gradient(gradient, untrained, dim)
    return gradient


def clear_gradient(gradient: Tensor, untrained: Units | None, dim: int) -> None:
    """Zeros where lane groups do not write, or add to what is there."""
    if untrained is not None:
        for place in untrained.places(gradient, dim):
            place.zero_()
