"""Matrix products between all samples of a pass and those of one lane group, slice by slice.

"All" are tensors ``[B, N, features]`` of every sample of the pass, "own" those of a group's
samples only.
"""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from runtime.lane_slices import LaneSlice, SublayerLanes, Units


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


def rows(x: Tensor) -> Tensor:
    """``[B, N, features]`` as a matrix with one row per token."""
    return x.view(x.shape[0] * x.shape[1], x.shape[2])


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
    """``x @ matrix + bias`` of the group's samples, ``[own B, N, matrix.shape[1]]``."""
    y = x_all.new_empty(group.num_samples, x_all.shape[1], matrix.shape[1])
    for all_samples, own_samples in group.sample_runs():
        a, out = rows(x_all[all_samples]), rows(y[own_samples])
        if bias is None:
            torch.mm(a, matrix, out=out)
        else:
            torch.addmm(bias, a, matrix, out=out)
    return y


def add_product_of_own(
    out_all: Tensor, y_own: Tensor, matrix: Tensor, group: LaneSlice, *, keep: bool = True
) -> None:
    """``out = y @ matrix`` on the group's samples, added to what `out` holds if `keep`."""
    for all_samples, own_samples in group.sample_runs():
        add_product(rows(out_all[all_samples]), rows(y_own[own_samples]), matrix, keep=keep)


def add_input_weight_gradient(
    gradient: Tensor, units: Units, grad_own: Tensor, x_all: Tensor, group: LaneSlice, fresh: bool
) -> None:
    """Add the dW of a linear map from all samples, whose `units` are rows of the weight.

    With `fresh` the buffer may hold anything yet, and `units` are all of it.
    """
    pairs = [
        (rows(grad_own[own_samples]).t(), rows(x_all[all_samples]))
        for all_samples, own_samples in group.sample_runs()
    ]
    _add_weight_gradient(gradient, 0, units, pairs, fresh)


def add_output_weight_gradient(
    gradient: Tensor, units: Units, grad_all: Tensor, y_own: Tensor, group: LaneSlice, fresh: bool
) -> None:
    """The same for a linear map from the group's samples; `units` are columns of the weight."""
    pairs = [
        (rows(grad_all[all_samples]).t(), rows(y_own[own_samples]))
        for all_samples, own_samples in group.sample_runs()
    ]
    _add_weight_gradient(gradient, 1, units, pairs, fresh)


def _add_weight_gradient(
    gradient: Tensor, dim: int, units: Units, pairs: list[tuple[Tensor, Tensor]], fresh: bool
) -> None:
    if len(units.runs) == 1:
        target = units.take(gradient, dim)
        for i, (left, right) in enumerate(pairs):
            add_product(target, left, right, keep=not fresh or i > 0)
        return
    product = pairs[0][0] @ pairs[0][1]
    for left, right in pairs[1:]:
        add_product(product, left, right)
    units.add_to(gradient, dim, product)


def branch_buffer(x: Tensor, bias: Tensor | None) -> Tensor:
    """What lane groups add their results to: the output bias on every token, or zeros."""
    if bias is None:
        return torch.zeros_like(x)
    return bias.to(x.dtype).expand(x.shape).contiguous()


def input_gradient_buffer(x: Tensor, lanes: SublayerLanes) -> Tensor:
    """What lane groups write dX to, or add it to unless ``lanes.full_samples_disjoint``."""
    if not lanes.full_samples_disjoint:
        return torch.zeros_like(x)
    gradient = torch.empty_like(x)
    for start, stop in lanes.samples_without_full:
        gradient[start:stop].zero_()
    return gradient


def parameter_gradient_buffer(parameter: Tensor, fresh: bool) -> Tensor:
    """What lane groups add dW to; with `fresh` the first of them overwrites all of it."""
    return torch.empty_like(parameter) if fresh else torch.zeros_like(parameter)
