"""What of the parameters a step leaves as it is: all of subnets that it does not train.

Such a parameter has no gradient, so an optimizer passes it over. Where subnets share one, as heads
share the maps of their attention, the rows of those that rest are kept over the update, and those
of the optimizer's moments with them: neither weight decay nor a fading moment touches them. The
update goes block by block, so that only one block's rows are kept at a time, unless the optimizer
looks at all gradients together. Only the count of updates is one for the whole parameter, also on a
rank that holds nothing of it but what rests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

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
        _update_with(optimizer, {r.parameter: gradients[r.parameter] for r in of_one}, of_one)
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
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = gradients.get(parameter)
    held = hold(optimizer, Resting(rows=tuple(left)))
    optimizer.step()
    put_back(optimizer, held)


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
