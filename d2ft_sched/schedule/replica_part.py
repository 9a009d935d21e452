"""What each of several replicas does in a step: the mini-batch and its schedule, cut by replica."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica, first_microbatches


@dataclass(frozen=True)
class ReplicaPart:
    """What one replica does in a step.

    Attributes:
        workload: the model with the replica's micro-batches alone.
        placement: device of every subnet, owner of each of these micro-batches.
        schedule: of these micro-batches, int8 ``[num_subnets, num_own_microbatches]``.
        num_waves: groups of them that pass through the replica one after another.
        microbatches: which of the mini-batch's they are.
        is_idle: whether none of them passes any subnet while others' do: then it runs nothing.
    """

    workload: Workload
    placement: Placement
    schedule: np.ndarray
    num_waves: int
    microbatches: slice
    is_idle: bool = False


def replica_parts(
    workload: Workload, replicas: Sequence[Replica], schedule: np.ndarray
) -> tuple[ReplicaPart, ...]:
    """What each of several replicas does under a schedule ``[num_subnets, num_microbatches]``."""
    bounds = first_microbatches(replicas)
    runs = (schedule != Operation.SHORTCUT).any(axis=0)
    parts = []
    for replica, first, stop in zip(replicas, bounds[:-1], bounds[1:], strict=True):
        own = slice(int(first), int(stop))
        samples = workload.microbatch_samples[own]
        parts.append(
            ReplicaPart(
                workload=replace(workload, microbatch_samples=samples),
                placement=replica.placement,
                schedule=schedule[:, own],
                num_waves=replica.num_waves,
                microbatches=own,
                is_idle=bool(runs.any() and not runs[own].any()),
            )
        )
    return tuple(parts)
