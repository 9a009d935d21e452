"""Where subnets live and which device owns each micro-batch's trunk."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import Partition


@dataclass(frozen=True)
class Placement:
    """Device indices.

    Attributes:
        num_devices: devices of the cluster, with or without work.
        subnet_device: device that holds each subnet, ``[num_subnets]``.
        owner: device that keeps each micro-batch's residual stream, ``[num_microbatches]``.
        recomputing: devices, sorted, whose lanes keep their inputs alone and compute forward again
            in backward (gradient checkpointing, arXiv 1604.06174).
    """

    num_devices: int
    subnet_device: tuple[int, ...]
    owner: tuple[int, ...]
    recomputing: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, devices in (
            ("subnet_device", self.subnet_device),
            ("owner", self.owner),
            ("recomputing", self.recomputing),
        ):
            for index, device in enumerate(devices):
                if not 0 <= device < self.num_devices:
                    raise InputError(
                        f"placement: {name}[{index}] is {device}; "
                        f"devices are 0 to {self.num_devices - 1}"
                    )

    @property
    def recomputes(self) -> np.ndarray:
        """Whether each device is one of `recomputing`, bool ``[num_devices]``."""
        chosen = np.zeros(self.num_devices, dtype=bool)
        chosen[list(self.recomputing)] = True
        return chosen

    @property
    def owners(self) -> tuple[int, ...]:
        """Devices that own at least one micro-batch; these hold the trunk's parameters."""
        return tuple(sorted(set(self.owner)))


def place_round_robin(partition: Partition, num_microbatches: int, num_devices: int) -> Placement:
    """Group j of every block on device j mod num_devices; micro-batch i owned by i mod num_devices.

    With as many groups as devices every device holds the same heads of every block, as in the
    paper (our reading).
    """
    device = np.concatenate(
        [np.arange(len(partition.of_block(b))) % num_devices for b in range(partition.num_blocks)]
    )
    return Placement(
        num_devices=num_devices,
        subnet_device=tuple(int(d) for d in device),
        owner=tuple(i % num_devices for i in range(num_microbatches)),
    )
