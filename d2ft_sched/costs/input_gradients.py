"""Which sub-layers need the gradient with respect to their input (dX).

Where all parameters train, every one. Where only adapters do, those alone that have a sub-layer
before them which trains the same micro-batch: what lies before the first has nothing to learn, and
a subnet that rests there has no gradient to hand on.
"""

import numpy as np

from d2ft_sched.costs.held import any_held
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation


def needs_input_gradient(workload: Workload, schedule: np.ndarray) -> np.ndarray:
    """bool ``[num_blocks, 2 sublayers, num_microbatches]``.

    Args:
        workload: model, partition, and what trains.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    partition, num_blocks = workload.partition, workload.shape.num_blocks
    has_units = np.array([partition.heads, partition.hidden])[:, :, None] > 0
    size = (num_blocks, len(has_units), int(schedule.shape[1]))
    if workload.lora is None:
        return np.ones(size, dtype=bool)
    everywhere = np.zeros_like(partition.block)
    is_full = (schedule == Operation.FULL) & has_units
    trains = any_held(num_blocks, partition.block, everywhere, 1, is_full)[:, :, 0]
    in_order = np.logical_or.accumulate(trains.swapaxes(0, 1).reshape(-1, size[2]), axis=0)
    before = np.concatenate([np.zeros((1, size[2]), dtype=bool), in_order[:-1]])
    return before.reshape(size)


def executed_schedule(workload: Workload, schedule: np.ndarray) -> np.ndarray:
    """The schedule as it is run: REST is FORWARD_ONLY where nothing before it needs a gradient.

    Args:
        workload: model, partition, and what trains.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    rests = schedule == Operation.REST
    if workload.lora is None or not rests.any():
        return schedule
    needed = np.any(needs_input_gradient(workload, schedule), axis=1)[workload.partition.block]
    return np.where(rests & ~needed, np.int8(Operation.FORWARD_ONLY), schedule)


def hands_gradient_on(workload: Workload, block: np.ndarray) -> np.ndarray:
    """Whether attention of a block needs dX in the dense run, bool as `block`; MLPs always do."""
    return (block > 0) | (workload.lora is None)
