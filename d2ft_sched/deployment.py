"""A workload on a cluster: what a step needs to know before anything is scheduled."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.replica import Replica, check_replicas
from d2ft_sched.schedule.replica_part import ReplicaPart, replica_parts
from d2ft_sched.schedule.schedule import uniform_schedule


@dataclass(frozen=True)
class Deployment:
    """Copies of a model on a cluster, and the mini-batch dealt to them.

    Attributes:
        workload: model, partition and mini-batch.
        cluster: the devices and links.
        replicas: copies of the model, which share no device, each with micro-batches of its own:
            neighbours, in order.
    """

    workload: Workload
    cluster: Cluster
    replicas: tuple[Replica, ...]

    def __post_init__(self) -> None:
        check_replicas(
            self.replicas,
            len(self.cluster.devices),
            self.workload.num_subnets,
            self.workload.num_microbatches,
        )

    def parts_of(self, schedule: np.ndarray) -> tuple[ReplicaPart, ...]:
        """What each replica does under a schedule ``[num_subnets, num_microbatches]``."""
        return replica_parts(self.workload, self.replicas, schedule)

    def uniform(self, operation: Operation) -> np.ndarray:
        """The schedule in which all subnets do the same with all micro-batches."""
        return uniform_schedule(
            self.workload.num_subnets, self.workload.num_microbatches, operation
        )

    def with_only(self, kept: np.ndarray) -> "Deployment":
        """The only replica with the micro-batches of these indices alone, where they are, int
        ``[num_kept]``, at least one; errors as `replica`."""
        samples = tuple(self.workload.microbatch_samples[i] for i in kept)
        owner = tuple(self.placement.owner[i] for i in kept)
        return deploy(
            replace(self.workload, microbatch_samples=samples),
            self.cluster,
            replace(self.placement, owner=owner),
            min(self.num_waves, len(kept)),
        )

    def on(self, cluster: Cluster) -> Self:
        """The same on another cluster with as many devices."""
        return replace(self, cluster=cluster)

    @property
    def devices(self) -> tuple[int, ...]:
        """Devices of any replica, sorted; the others are left out."""
        return tuple(sorted(d for replica in self.replicas for d in replica.devices))

    @property
    def replica(self) -> Replica:
        """Of a deployment of one.

        Raises:
            InputError: it has several.
        """
        if len(self.replicas) > 1:
            raise InputError(
                f"the plan has {len(self.replicas)} replicas; this needs a plan of one"
            )
        return self.replicas[0]

    @property
    def placement(self) -> Placement:
        """Of the only replica; errors as `replica`."""
        return self.replica.placement

    @property
    def num_waves(self) -> int:
        """Of the only replica; errors as `replica`."""
        return self.replica.num_waves

    @property
    def shares_messages(self) -> bool:
        """Whether a device of the only replica holds several subnets of a block, which share their
        messages."""
        block = self.workload.partition.block.tolist()
        sites = set(zip(block, self.placement.subnet_device, strict=True))
        return len(sites) < self.workload.num_subnets


def deploy(
    workload: Workload,
    cluster: Cluster,
    placement: Placement | None = None,
    num_waves: int = 1,
) -> Deployment:
    """One copy of the model, cut over a cluster.

    Args:
        workload: model, partition and mini-batch.
        cluster: the devices and links.
        placement: device of every subnet, owner of every micro-batch; default `place_round_robin`.
        num_waves: groups of micro-batches that pass through the model one after another.

    Raises:
        InputError: the placement is of another cluster or workload, or there are more waves than
            micro-batches.
    """
    if placement is None:
        placement = place_round_robin(
            workload.partition, workload.num_microbatches, len(cluster.devices)
        )
    return Deployment(workload, cluster, (Replica(placement, num_waves),))
