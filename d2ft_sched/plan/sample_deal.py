"""A mini-batch dealt to replicas, and what lanes take of it: what changes where samples move."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.input_gradients import executed_schedule, needs_input_gradient
from d2ft_sched.costs.lanes.lane_groups import lane_groups
from d2ft_sched.costs.lanes.lane_seconds import lane_seconds
from d2ft_sched.costs.replica_memory import part_devices
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.replica import Replica, first_microbatches, microbatch_owners
from d2ft_sched.schedule.replica_part import ReplicaPart, replica_parts
from d2ft_sched.schedule.waves import running_microbatches


@dataclass(frozen=True, eq=False)
class SampleDeal:
    """Micro-batches of all replicas, and what is done with them.

    Attributes:
        workload: the model with these micro-batches.
        replicas: copies of the model, whose weights stay where they are.
        schedule: int8 ``[num_subnets, num_microbatches]``; of a kind that is drawn anew, any.
    """

    workload: Workload
    replicas: tuple[Replica, ...]
    schedule: np.ndarray

    @property
    def owner(self) -> tuple[int, ...]:
        """Of every micro-batch."""
        return microbatch_owners(self.replicas)

    @property
    def samples(self) -> tuple[int, ...]:
        """That each replica runs."""
        running = np.zeros(self.workload.num_microbatches, dtype=np.int64)
        runs = running_microbatches(self.schedule)
        running[runs] = self.workload.samples[runs]
        bounds = first_microbatches(self.replicas).tolist()
        return tuple(int(running[a:b].sum()) for a, b in pairwise(bounds))

    def text(self) -> str:
        """All that processes of a job must agree on."""
        return repr((self.workload.microbatch_samples, self.replicas, self.schedule.tolist()))

    def lanes_s(self, schedule: np.ndarray, device: int, devices: Sequence[Device]) -> float:
        """Predicted seconds of a device's lanes, without factors that adapters share.

        Args:
            schedule: of these micro-batches, int ``[num_subnets, num_microbatches]``.
            device: of a replica, or of none.
            devices: by index.
        """
        parts = replica_parts(self.workload, self.replicas, schedule)
        return sum(
            _part_lanes_s(part, device, devices)
            for replica, part in zip(self.replicas, parts, strict=True)
            if device in replica.devices and not part.is_idle
        )


def _part_lanes_s(part: ReplicaPart, device: int, devices: Sequence[Device]) -> float:
    workload, placement = part.workload, part.placement
    held = np.flatnonzero(np.array(placement.subnet_device) == device)
    executed = executed_schedule(workload, part.schedule)
    needs_dx = needs_input_gradient(workload, executed)
    priced, total_s = part_devices(part, devices), 0.0
    for microbatches in part.waves:
        groups = lane_groups(workload, placement, executed, microbatches, priced, held)
        needed = np.any(needs_dx[..., microbatches], axis=2)[groups.block].T
        seconds = lane_seconds(workload, devices, groups.sizes, needed, is_trial=True)
        total_s += float(seconds.sum())
    return total_s
