"""On how many tokens each device multiplies with the factors of adapters that a block shares.

However many of a block's heads or hidden units a device runs on a token, it multiplies that token
with the shared A of the map in, and their sum with the shared B of the map out, once.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.exchange import SUBLAYERS
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
    microbatches: np.ndarray | None = None,
) -> SharedFactorTokens:
    """Count them for one wave, or a whole step.

    Args:
        workload: model, partition and mini-batch.
        schedule: int ``[num_subnets, num_microbatches]``.
        placement: default one device.
        microbatches: indices of the wave's micro-batches; default all.
    """
    partition = workload.partition
    num_devices, device = 1, np.zeros(workload.num_subnets, dtype=np.int64)
    if placement is not None:
        num_devices, device = placement.num_devices, np.array(placement.subnet_device)
    tokens = workload.tokens
    if microbatches is not None:
        tokens = np.where(np.isin(np.arange(len(tokens)), microbatches), tokens, 0)
    schedule = executed_schedule(workload, schedule)
    size = (workload.shape.num_blocks, len(SUBLAYERS), num_devices, schedule.shape[1])
    runs, trains, rests = (np.zeros(size, dtype=bool) for _ in range(3))
    for sublayer, units in enumerate((partition.heads, partition.hidden)):
        of_some = (units > 0)[:, None]
        at = (partition.block, device)
        np.logical_or.at(runs[:, sublayer], at, (schedule != Operation.SHORTCUT) & of_some)
        np.logical_or.at(trains[:, sublayer], at, (schedule == Operation.FULL) & of_some)
        np.logical_or.at(rests[:, sublayer], at, (schedule == Operation.REST) & of_some)
    needs_dx = needs_input_gradient(workload, schedule)[:, :, None]
    hands_on = (trains | rests) & needs_dx
    return SharedFactorTokens(
        forward=runs @ tokens,
        backward=(trains | hands_on) @ tokens,
        input_gradient=hands_on @ tokens,
        trained=trains @ tokens,
    )
