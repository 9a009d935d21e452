"""On how many tokens each device multiplies with the factors of adapters that a block shares.

However many of a block's heads or hidden units a device runs on a token, it multiplies that token
with the shared A of the map in, and their sum with the shared B of the map out, once.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.held import any_held
from d2ft_sched.costs.input_gradients import executed_schedule, needs_input_gradient
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement


@dataclass(frozen=True)
class SharedFactorTokens:
    """Tokens, int ``[num_blocks, 2 sublayers, num_devices]`` each.

    Attributes:
        forward: that any subnet held runs.
        backward: that any subnet held trains, or hands a gradient on.
        input_gradient: those of them whose gradient goes on to the sub-layer's input.
        trained: those of them that any subnet held trains.
    """

    forward: np.ndarray
    backward: np.ndarray
    input_gradient: np.ndarray
    trained: np.ndarray


def shared_factor_tokens(
    workload: Workload,
    schedule: np.ndarray,
    placement: Placement | None = None,
) -> SharedFactorTokens:
    """Count them for all micro-batches.

    Args:
        workload: model, partition and mini-batch.
        schedule: int ``[num_subnets, num_microbatches]``.
        placement: default one device.
    """
    partition = workload.partition
    num_devices, device = 1, np.zeros(workload.num_subnets, dtype=np.int64)
    if placement is not None:
        num_devices, device = placement.num_devices, np.array(placement.subnet_device)
    tokens = workload.tokens
    schedule = executed_schedule(workload, schedule)
    has_units = np.array([partition.heads, partition.hidden])[:, :, None] > 0
    runs, trains, rests = (
        np.moveaxis(
            any_held(partition.num_blocks, partition.block, device, num_devices, of_op & has_units),
            0,
            1,
        )
        for of_op in (
            schedule != Operation.SHORTCUT,
            schedule == Operation.FULL,
            schedule == Operation.REST,
        )
    )
    needs_dx = needs_input_gradient(workload, schedule)[:, :, None]
    hands_on = (trains | rests) & needs_dx
    return SharedFactorTokens(
        forward=runs @ tokens,
        backward=(trains | hands_on) @ tokens,
        input_gradient=hands_on @ tokens,
        trained=trains @ tokens,
    )
