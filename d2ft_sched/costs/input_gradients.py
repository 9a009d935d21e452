"""Which sub-layers need the gradient with respect to their input (dX).

Where all parameters train, every one. Where only adapters do, those alone that have a sub-layer
before them which trains the same micro-batch: what lies before the first has nothing to learn.
REST trains nothing: it hands the gradient on where it is needed, and runs no backward elsewhere.
"""

import numpy as np

from d2ft_sched.costs.exchange import SUBLAYERS
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation


def needs_input_gradient(workload: Workload, schedule: np.ndarray) -> np.ndarray:
    """bool ``[num_blocks, 2 sublayers, num_microbatches]``.

    Args:
        workload: model, partition, and what trains.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    partition, num_blocks = workload.partition, workload.shape.num_blocks
    size = (num_blocks, len(SUBLAYERS), schedule.shape[1])
    if workload.lora is None:
        return np.ones(size, dtype=bool)
    trains = np.zeros(size, dtype=bool)
    is_full = schedule == Operation.FULL
    for sublayer, units in enumerate((partition.heads, partition.hidden)):
        np.logical_or.at(trains[:, sublayer], partition.block, is_full & (units > 0)[:, None])
    in_order = np.logical_or.accumulate(trains.reshape(-1, size[2]), axis=0)
    before = np.concatenate([np.zeros((1, size[2]), dtype=bool), in_order[:-1]])
    return before.reshape(size)


def hands_gradient_on(workload: Workload, block: np.ndarray) -> np.ndarray:
    """Whether attention of a block needs dX in the dense run, bool as `block`; MLPs always do."""
    return (block > 0) | (workload.lora is None)
