"""Replicas: devices that together hold one copy of the model, and the micro-batches dealt to
them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.schedule.placement import Placement


@dataclass(frozen=True)
class Replica:
    """One copy of the model, cut over some devices.

    Attributes:
        placement: device of every subnet, owner of every micro-batch of the replica; devices are
            those of the cluster.
        num_waves: groups of its micro-batches that pass through it one after another.
    """

    placement: Placement
    num_waves: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.num_waves <= self.num_microbatches:
            raise InputError(
                f"number of waves is {self.num_waves}; it must be between 1 and the "
                f"{counted(self.num_microbatches, 'micro-batch')}"
            )

    @property
    def num_microbatches(self) -> int:
        """Those that pass through this replica."""
        return len(self.placement.owner)

    @property
    def devices(self) -> tuple[int, ...]:
        """Those that hold subnets or own micro-batches, sorted."""
        return tuple(sorted({*self.placement.subnet_device, *self.placement.owner}))


def first_microbatches(replicas: Sequence[Replica]) -> np.ndarray:
    """Where each replica's micro-batches begin among all, and their number, int
    ``[num_replicas + 1]``: replicas are dealt neighbours, in order."""
    return np.cumsum([0, *(r.num_microbatches for r in replicas)])


def microbatch_owners(replicas: Sequence[Replica]) -> tuple[int, ...]:
    """Device that owns each micro-batch of the mini-batch, ``[num_microbatches]``."""
    return tuple(owner for replica in replicas for owner in replica.placement.owner)


def check_replicas(
    replicas: Sequence[Replica], num_devices: int, num_subnets: int, num_microbatches: int
) -> None:
    """Refuse replicas that do not hold the model, deal the mini-batch, or share no device.

    Raises:
        InputError: naming the replica and what is wrong with it.
    """
    if not replicas:
        raise InputError("a plan has no replica; it needs at least one")
    holder: dict[int, int] = {}
    for index, replica in enumerate(replicas):
        place = replica.placement
        if place.num_devices != num_devices:
            raise InputError(
                f"the placement is for {counted(place.num_devices, 'device')}; the cluster "
                f"has {num_devices}"
            )
        if len(place.subnet_device) != num_subnets:
            raise InputError(
                f"the placement is of {counted(len(place.subnet_device), 'subnet')}; the "
                f"workload has {num_subnets}"
            )
        for device in replica.devices:
            if holder.setdefault(device, index) != index:
                raise InputError(
                    f"device {device} is in replicas {holder[device]} and {index}; "
                    f"replicas share no device"
                )
    dealt = int(first_microbatches(replicas)[-1])
    if dealt != num_microbatches:
        raise InputError(
            f"the placement is of {counted(dealt, 'micro-batch')}; the workload has "
            f"{num_microbatches}"
        )
