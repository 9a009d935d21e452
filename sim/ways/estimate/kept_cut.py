"""A replica whose weights stay where they are, however many samples it is dealt."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.placement_search.layout import to_counts
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica


@dataclass(frozen=True)
class KeptCut:
    """What all layouts of a replica have in common; devices are counted within its own.

    Attributes:
        num_devices: of the replica.
        subnet_device: device of every subnet.
        owner: of the micro-batches of a wave, which are dealt in turns to these, each owner once
            before any is there again.
    """

    num_devices: int
    subnet_device: tuple[int, ...]
    owner: tuple[int, ...]

    @property
    def owners(self) -> frozenset[int]:
        """Those that own micro-batches, and hold the trunk for it."""
        return frozenset(self.owner)

    def counts(self, step: DenseStep) -> np.ndarray:
        """The layout of the subnets, int ``[num_blocks, num_devices, num_sizes]``."""
        return to_counts(step, Placement(self.num_devices, self.subnet_device, self.owner))

    def in_turns(self, num_microbatches: int) -> tuple[int, ...]:
        """Owners of so many micro-batches of a wave."""
        return tuple(self.owner[i % len(self.owner)] for i in range(num_microbatches))


def kept_cut(replica: Replica) -> KeptCut:
    """What stays of a replica: its subnets, and who owns micro-batches in which proportion."""
    local = {device: i for i, device in enumerate(replica.devices)}
    owner = [local[device] for device in replica.placement.owner]
    first = list(dict.fromkeys(owner))
    again = [one for i, one in enumerate(owner) if one in owner[:i]]
    subnet_device = tuple(local[device] for device in replica.placement.subnet_device)
    return KeptCut(len(local), subnet_device, (*first, *again))
