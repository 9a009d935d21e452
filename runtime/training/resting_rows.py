"""What of the parameters a step leaves as it is: all of subnets that it does not train.

Such a parameter has no gradient, so an optimizer passes it over. Where subnets share one, as heads
share the maps of their attention, the optimizer is given the rows that train in its place, and
those of its moments: neither weight decay nor a fading moment touches the others. Columns are
copied for that (kernels want neighbours), or, where less moves so, those that rest are kept over
the step and put back, as of all where an optimizer looks at whole weights. The update goes block by
block, so that copies of one block are enough. Only the count of updates is one for the whole
parameter, also on a rank that holds nothing of it but what rests.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from d2ft_sched.costs.partial_update import goes_in_pieces
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import trains_in_step
from runtime.families.family import ModelFamily
from runtime.families.known_families import family_of
from runtime.families.low_rank import adapted_weight
from runtime.lanes.held_units import units_of
from runtime.lanes.units import Run, index_runs
from runtime.ranks.shards import Shard, axis_indices, sliced_axis


@dataclass(frozen=True, eq=False)
class RestingRows:
    """Part of a parameter of which another part trains.

    Attributes:
        parameter: as it is held.
        block: of the subnets that share it.
        dim: along which it is shared.
        runs: what rests along `dim`, in order.
    """

    parameter: nn.Parameter
    block: int
    dim: int
    runs: tuple[Run, ...]

    def of(self, tensor: Tensor) -> list[Tensor]:
        """Views of what rests in the parameter, or in a tensor of its shape."""
        return [tensor.narrow(self.dim, start, stop - start) for start, stop in self.runs]

    def besides(self, tensor: Tensor) -> list[Tensor]:
        """Views of what trains."""
        bounds = [0, *(bound for run in self.runs for bound in run), tensor.shape[self.dim]]
        between = zip(bounds[::2], bounds[1::2], strict=True)
        return [tensor.narrow(self.dim, a, b - a) for a, b in between if b > a]


@dataclass(frozen=True, eq=False)
class Resting:
    """What rests in a step, of parameters that train in others.

    Attributes:
        whole: parameters of which nothing trains anywhere.
        elsewhere: all that is held of parameters of which another part trains on other ranks.
        rows: parts of others.
    """

    whole: tuple[nn.Parameter, ...] = ()
    elsewhere: tuple[RestingRows, ...] = ()
    rows: tuple[RestingRows, ...] = ()


def resting(
    model: nn.Module, shards: Sequence[Shard], workload: Workload, schedule: np.ndarray
) -> Resting:
    """What rests under a schedule: subnets of which no operation is FULL.

    A factor of adapters that a block shares rests where all its subnets do; the trunk never rests.

    Args:
        model: whole, or a rank's part of it.
        shards: what of each of its parameters is here.
        workload: whose partition says which heads and hidden units a subnet has.
        schedule: of the whole mini-batch, int ``[num_subnets, num_microbatches]``.
    """
    parameters = dict(model.named_parameters())
    return resting_of(family_of(model), parameters, shards, workload, schedule)


def resting_of(
    family: ModelFamily,
    parameters: Mapping[str, nn.Parameter],
    shards: Sequence[Shard],
    workload: Workload,
    schedule: np.ndarray,
) -> Resting:
    """As `resting`, of parameters by the names that `family` gives them."""
    trains = trains_in_step(np.asarray(schedule))
    trained = [units_of(workload, trains, block) for block in range(workload.shape.num_blocks)]
    whole = list[nn.Parameter]()
    elsewhere, rows = list[RestingRows](), list[RestingRows]()
    for shard in shards:
        parameter = parameters[shard.name]
        axis = family.unit_axis(adapted_weight(shard.name)[0])
        if axis is None or not parameter.requires_grad:
            continue
        if not len(trained[axis.block].of(axis.units)):
            whole.append(parameter)
        elif sliced_axis(family, shard.name) is not None:
            indices, held = axis_indices(axis, trained[axis.block], workload), shard.indices
            if held is None:
                held = np.arange(shard.full_shape[axis.dim])
            left = np.flatnonzero(~np.isin(held, indices, assume_unique=True))
            if len(left):
                part = RestingRows(parameter, axis.block, axis.dim, index_runs(left))
                (elsewhere if len(left) == len(held) else rows).append(part)
    return Resting(tuple(whole), tuple(elsewhere), tuple(rows))


def drop_gradients(left: Resting) -> None:
    """Of parameters of which nothing trains here."""
    for parameter in (*left.whole, *(rows.parameter for rows in left.elsewhere)):
        parameter.grad = None


@torch.no_grad()
def update(optimizer: torch.optim.Optimizer, left: Resting, *, is_elementwise: bool = True) -> None:
    """A step of `optimizer` that leaves `left` as it is, moments included, bit by bit.

    Gradients of parameters of which nothing trains here are dropped.

    Args:
        optimizer: of all parameters held that train.
        left: what rests.
        is_elementwise: whether it may be stepped for some parameters after others.
    """
    drop_gradients(left)
    if not is_elementwise:
        held = hold(optimizer, left)
        optimizer.step()
        put_back(optimizer, held)
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = {p: p.grad for p in parameters if p.grad is not None}
    of_block: dict[int, list[RestingRows]] = {}
    for rows in left.rows:
        if rows.parameter in gradients:
            of_block.setdefault(rows.block, []).append(rows)
    partly = {rows.parameter for rows in left.rows}
    _update_with(optimizer, {p: g for p, g in gradients.items() if p not in partly})
    for of_one in of_block.values():
        own = {rows.parameter: gradients[rows.parameter] for rows in of_one}
        _update_with(optimizer, own, of_one)
    for rows in left.elsewhere:
        _count_update(optimizer, rows)
    for parameter, gradient in gradients.items():
        parameter.grad = gradient


def _update_with(
    optimizer: torch.optim.Optimizer,
    gradients: Mapping[nn.Parameter, Tensor],
    left: Sequence[RestingRows] = (),
) -> None:
    """Update the parameters of these gradients and no others, but for what of them is `left`."""
    every = [group["params"] for group in optimizer.param_groups]
    for parameter in (p for parameters in every for p in parameters):
        parameter.grad = gradients.get(parameter)
    pieces = {
        rows.parameter: _Pieces.of(optimizer, rows, gradients[rows.parameter])
        for rows in left
        if _goes_in_pieces(optimizer, rows)
    }
    kept = tuple(rows for rows in left if rows.parameter not in pieces)
    held = hold(optimizer, Resting(rows=kept))
    try:
        for group in optimizer.param_groups:
            own = [p for p in group["params"] if p in gradients]
            of_each = (pieces[p].parameters if p in pieces else (p,) for p in own)
            group["params"] = [piece for of_one in of_each for piece in of_one]
        _begin_momentum(optimizer)
        optimizer.step()
    finally:
        for group, parameters in zip(optimizer.param_groups, every, strict=True):
            group["params"] = parameters
        for one in pieces.values():
            one.take_back(optimizer)
    put_back(optimizer, held)


def _goes_in_pieces(optimizer: torch.optim.Optimizer, left: RestingRows) -> bool:
    """Whether what trains is updated apart, see `d2ft_sched.costs.partial_update`."""
    parameter = left.parameter
    resting = sum(part.numel() for part in left.of(parameter))
    trained = parameter.numel() - resting
    if not trained:
        return False
    num_states = len(_moments(optimizer, parameter))
    return left.dim == 0 or bool(goes_in_pieces(trained, resting, num_states))


@dataclass(frozen=True, eq=False)
class _Pieces:
    """What trains of a parameter, run by run, as parameters of their own.

    Attributes:
        rows: what rests of it.
        parameters: the pieces, views or copies of it, with their gradients.
    """

    rows: RestingRows
    parameters: tuple[nn.Parameter, ...]

    @staticmethod
    def of(optimizer: torch.optim.Optimizer, rows: RestingRows, gradient: Tensor) -> "_Pieces":
        """With their part of the optimizer's state."""
        pieces = [nn.Parameter(own.contiguous()) for own in rows.besides(rows.parameter)]
        for piece, own in zip(pieces, rows.besides(gradient), strict=True):
            piece.grad = own.contiguous()
        for name, value in optimizer.state.get(rows.parameter, {}).items():
            if not isinstance(value, Tensor):
                values = [deepcopy(value) for _ in pieces]
            elif value.shape == rows.parameter.shape:
                values = [part.contiguous() for part in rows.besides(value)]
            else:
                values = [value.clone() for _ in pieces]
            for piece, part in zip(pieces, values, strict=True):
                optimizer.state[piece][name] = part
        return _Pieces(rows, tuple(pieces))

    def take_back(self, optimizer: torch.optim.Optimizer) -> None:
        """Put what is not there yet into the parameter and its moments, which begin with zeros."""
        parameter = self.rows.parameter
        states = [optimizer.state.pop(piece, {}) for piece in self.parameters]
        for into, piece in zip(self.rows.besides(parameter), self.parameters, strict=True):
            _copy_if_apart(into, piece)
        whole = optimizer.state[parameter]
        for name, value in states[0].items():
            if not isinstance(value, Tensor) or value.shape != self.parameters[0].shape:
                whole[name] = value
                continue
            if name not in whole:
                whole[name] = torch.zeros_like(parameter, dtype=value.dtype)
            parts = self.rows.besides(whole[name])
            for into, state in zip(parts, states, strict=True):
                _copy_if_apart(into, state[name])


def _copy_if_apart(into: Tensor, values: Tensor) -> None:
    if into.data_ptr() != values.data_ptr():
        into.copy_(values)


def _count_update(optimizer: torch.optim.Optimizer, left: RestingRows) -> None:
    """An update of nothing that is here: an optimizer that counts has counted it."""
    parameter = left.parameter
    state = optimizer.state.get(parameter)
    if state and "step" in state:
        state["step"] += 1
    else:
        _update_with(optimizer, {parameter: torch.zeros_like(parameter)}, [left])


@dataclass(frozen=True, eq=False)
class Held:
    """What a step of an optimizer must not change.

    Attributes:
        values: views of parameters and moments, each with a copy.
        new: parts of parameters that have no moments yet.
    """

    values: tuple[tuple[Tensor, Tensor], ...]
    new: tuple[RestingRows, ...]


@torch.no_grad()
def hold(optimizer: torch.optim.Optimizer, left: Resting) -> Held:
    """Before a step of the whole model: drop gradients of parameters that rest whole, copy what
    rests of others."""
    for parameter in left.whole:
        parameter.grad = None
    _begin_momentum(optimizer)
    values = [
        (part, part.clone())
        for rows in left.rows
        for tensor in (rows.parameter, *_moments(optimizer, rows.parameter))
        for part in rows.of(tensor)
    ]
    new = [rows for rows in left.rows if not _moments(optimizer, rows.parameter)]
    return Held(tuple(values), tuple(new))


@torch.no_grad()
def put_back(optimizer: torch.optim.Optimizer, held: Held) -> None:
    """After the step: all that was held as it was; moments that are new there are zero."""
    for part, values in held.values:
        part.copy_(values)
    for rows in held.new:
        for moment in _moments(optimizer, rows.parameter):
            for part in rows.of(moment):
                part.zero_()


def _begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zeros for parameters that train for the first time, which is where momentum begins anyhow.

    torch's fused SGD (2.14.1) fails where some parameters have momentum and others do not yet.
    """
    for group in optimizer.param_groups:
        if group.get("momentum"):
            for parameter in group["params"]:
                if parameter.grad is not None and not _moments(optimizer, parameter):
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[Tensor]:
    """What the optimizer keeps for each value of a parameter."""
    state = optimizer.state.get(parameter, {}).values()
    return [t for t in state if isinstance(t, Tensor) and t.shape == parameter.shape]
