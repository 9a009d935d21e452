"""What of the parameters a step leaves as it is: all of subnets that it does not train.

Such a parameter has no gradient, so an optimizer passes it over. Where subnets share one, as heads
share the maps of their attention, the rows of those that rest are kept over the update, and those
of the optimizer's moments with them: neither weight decay nor a fading moment touches them. Only
the count of updates is one for the whole parameter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import trains_in_step
from runtime.families.known_families import family_of
from runtime.families.low_rank import adapted_weight
from runtime.lanes.held_units import units_of
from runtime.lanes.slices import Run, index_runs
from runtime.ranks.shards import Shard, axis_indices, sliced_axis


@dataclass(frozen=True, eq=False)
class RestingRows:
    """Part of a parameter of which another part trains.

    Attributes:
        parameter: as it is held.
        dim: along which it is shared.
        runs: what rests along `dim`, in order.
    """

    parameter: nn.Parameter
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
        rows: parts of others.
    """

    whole: tuple[nn.Parameter, ...] = ()
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
    family, parameters = family_of(model), dict(model.named_parameters())
    trains = trains_in_step(np.asarray(schedule))
    trained = [units_of(workload, trains, block) for block in range(workload.shape.num_blocks)]
    whole, rows = [], []
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
                rows.append(RestingRows(parameter, axis.dim, index_runs(left)))
    return Resting(tuple(whole), tuple(rows))


@torch.no_grad()
def update(optimizer: torch.optim.Optimizer, left: Resting) -> None:
    """A step of `optimizer` that leaves `left` as it is, moments included, bit by bit.

    Gradients of parameters that rest as a whole are dropped.
    """
    for parameter in left.whole:
        parameter.grad = None
    _begin_momentum(optimizer)
    kept = [
        (part, part.clone())
        for rows in left.rows
        for tensor in (rows.parameter, *_moments(optimizer, rows.parameter))
        for part in rows.of(tensor)
    ]
    is_new = [not _moments(optimizer, rows.parameter) for rows in left.rows]
    optimizer.step()
    for part, values in kept:
        part.copy_(values)
    for rows, has_new in zip(left.rows, is_new, strict=True):
        for moment in _moments(optimizer, rows.parameter) if has_new else ():
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
