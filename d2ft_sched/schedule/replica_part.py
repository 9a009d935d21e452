"""What each of several replicas does in a step: the mini-batch and its schedule, cut by replica."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica, first_microbatches
from d2ft_sched.schedule.waves import schedule_waves


@dataclass(frozen=True)
class ReplicaPart:
    """What one replica does in a step.

    Attributes:
        workload: the model with the replica's micro-batches alone.
        replica: device of every subnet, owner of each of these micro-batches, and waves of them.
        schedule: of these micro-batches, int8 ``[num_subnets, num_own_microbatches]``.
        microbatches: which of the mini-batch's they are.
        is_idle: whether none of them passes any subnet while others' do: then it runs nothing.
    """

    workload: Workload
    replica: Replica
    schedule: np.ndarray
    microbatches: slice
    is_idle: bool = False

    @property
    def placement(self) -> Placement:
        """Device of every subnet, owner of each of its micro-batches."""
        return self.replica.placement

    @property
    def waves(self) -> list[np.ndarray]:
        """What runs of each wave, see `schedule_waves`."""
        return schedule_waves(self.schedule, self.replica.num_waves)


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
                replica=replica,
                schedule=schedule[:, own],
                microbatches=own,
                is_idle=bool(runs.any() and not runs[own].any()),
            )
        )
    return tuple(parts)
