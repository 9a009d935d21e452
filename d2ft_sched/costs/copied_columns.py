"""Columns of weights that an update copies where a device trains a part of a block."""

import numpy as np

from d2ft_sched.costs.held import held_by_any, held_sum
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement


def copied_columns(
    workload: Workload, placement: Placement, trains: np.ndarray, resting: np.ndarray
) -> np.ndarray:
    """Parameters in columns of maps out that are brought together for the update, float
    ``[num_blocks, num_devices]``; rows of maps in neighbour one another as they are.

    Args:
        workload: the model, and what trains.
        placement: which device holds what.
        trains, resting: subnets that do, bool ``[num_subnets]``.
    """
    shape, partition = workload.shape, workload.partition
    rows = shape.width if workload.lora is None else workload.lora.rank
    columns = partition.heads * shape.head_columns + partition.hidden
    copied = held_sum(workload, placement, rows * columns * trains)
    return copied * held_by_any(workload, placement, resting)
