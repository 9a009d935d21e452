"""What an update moves besides, and copies, where a device trains a part of a block."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.held import held_by_any, held_sum
from d2ft_sched.costs.parameters import trained_subnet_parameters
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES, TOGETHER
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement


def goes_in_pieces(
    trained: np.ndarray | float, resting: np.ndarray | float, num_states: int
) -> bool | np.ndarray:
    """Whether columns that train are rather copied for the update than others kept over it.

    Copies are of gradients and moments, too, and go back but for gradients: each is read and
    written. What is kept is copied before and after, with its moments, and updated in vain. Rows
    need neither: their pieces are views.

    Args:
        trained, resting: parameters of columns that do.
        num_states: that the optimizer keeps of each.
    """
    return _moved_in_pieces(num_states) * trained < _moved_whole(num_states) * resting


def _moved_in_pieces(num_states: int) -> int:
    return 2 * (2 + num_states) + 2 * (1 + num_states)


def _moved_whole(num_states: int) -> int:
    return 4 * (1 + num_states) + 3 + 2 * num_states


def column_parameters(workload: Workload) -> np.ndarray:
    """Those of every subnet in maps out, or in their adapters, int ``[num_subnets]``."""
    shape, partition = workload.shape, workload.partition
    rows = shape.width if workload.lora is None else workload.lora.rank
    return rows * (partition.heads * shape.head_columns + partition.hidden)


@dataclass(frozen=True, eq=False)
class PartialUpdates:
    """Of blocks, float ``[num_blocks, num_devices]`` each, 0 where all or nothing trains.

    Attributes:
        moved: values read and written besides those that train.
        copied: values copied at the same time.
    """

    moved: np.ndarray
    copied: np.ndarray


def partial_updates(workload: Workload, placement: Placement, trains: np.ndarray) -> PartialUpdates:
    """What updates move and copy besides.

    Args:
        workload: the model, what trains, and the optimizer; one that looks at whole weights keeps
            what rests of all blocks.
        placement: which device holds what.
        trains: subnets that do, bool ``[num_subnets]``; the others rest.
    """
    states = OPTIMIZER_STATES[workload.optimizer]
    is_partly = held_by_any(workload, placement, trains)
    is_partly &= held_by_any(workload, placement, ~trains)
    if workload.optimizer in TOGETHER:
        values = trained_subnet_parameters(workload)
        rests = is_partly * held_sum(workload, placement, values * ~trains)
        return PartialUpdates(rests * _moved_whole(states), rests * (1 + states))
    columns = column_parameters(workload)
    trained, rests = (
        is_partly * held_sum(workload, placement, columns * chosen) for chosen in (trains, ~trains)
    )
    in_pieces = goes_in_pieces(trained, rests, states)
    moved = np.where(in_pieces, trained * _moved_in_pieces(states), rests * _moved_whole(states))
    return PartialUpdates(moved, np.where(in_pieces, trained * (2 + states), rests * (1 + states)))
