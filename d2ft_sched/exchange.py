"""Who sends how much to whom in each phase: the one count that simulator and runtime share.

In every block the owner of a micro-batch dispatches its normed activations to the devices active
for it, and these send partial sums back (combine); once for attention, once for the MLP. Backward,
the gradients take the same ways: to the devices with a FULL subnet, and back. Subnets of a block on
one device share their messages. Nothing moves between an owner and itself.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.operations import NUM_OPERATIONS, Operation
from d2ft_sched.partition import Partition
from d2ft_sched.placement import Placement
from d2ft_sched.workload import Workload

SUBLAYERS = ("attention", "mlp")
DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Exchange:
    """Messages between owners and active devices.

    Attributes:
        active: bool ``[2 directions, num_blocks, num_devices, num_microbatches]``: whether a device
            runs a subnet of the block on the micro-batch, forward (any operation but SHORTCUT) and
            backward (FULL).
        message_bytes: bytes of one message of each micro-batch, int ``[num_microbatches]``.
        owner: owner of each micro-batch, int ``[num_microbatches]``.
    """

    active: np.ndarray
    message_bytes: np.ndarray
    owner: np.ndarray

    @property
    def num_devices(self) -> int:
        return int(self.active.shape[2])

    def dispatch_bytes(self, direction: int, block: int) -> np.ndarray:
        """Bytes from row to column device, int ``[num_devices, num_devices]``, of one dispatch.

        It is the same for both sub-layers; the combine that follows is its transpose.
        """
        active = self.active[direction, block]
        sent = active * self.message_bytes
        sent[self.owner, np.arange(len(self.owner))] = 0
        matrix = np.zeros((self.num_devices, self.num_devices), dtype=np.int64)
        np.add.at(matrix, self.owner, sent.T)
        return matrix

    def pair_bytes(self) -> np.ndarray:
        """Bytes of a whole step from row to column device, int ``[num_devices, num_devices]``."""
        total = np.zeros((self.num_devices, self.num_devices), dtype=np.int64)
        for direction in range(len(DIRECTIONS)):
            for block in range(self.active.shape[1]):
                dispatch = self.dispatch_bytes(direction, block)
                total += len(SUBLAYERS) * (dispatch + dispatch.T)
        return total

    def total_bytes(self) -> int:
        """Bytes handed to the network in a step by dispatch and combine."""
        return int(self.pair_bytes().sum())


def plan_exchange(workload: Workload, placement: Placement, schedule: np.ndarray) -> Exchange:
    """The exchange of one step; message size is ``[tokens, width]`` of the workload's elements."""
    return Exchange(
        active=_active(workload.partition, placement, schedule),
        message_bytes=workload.activation_bytes.astype(np.int64),
        owner=np.array(placement.owner),
    )


def _active(partition: Partition, placement: Placement, schedule: np.ndarray) -> np.ndarray:
    num_microbatches = schedule.shape[1]
    active = np.zeros(
        (2, partition.num_blocks, placement.num_devices, num_microbatches), dtype=bool
    )
    device = np.array(placement.subnet_device)
    np.logical_or.at(active[0], (partition.block, device), schedule != Operation.SHORTCUT)
    np.logical_or.at(active[1], (partition.block, device), schedule == Operation.FULL)
    return active


def operation_message_bytes(workload: Workload, placement: Placement) -> np.ndarray:
    """Additive upper bound on bytes, float ``[num_subnets, num_microbatches, 3]``, for solvers.

    Each subnet is charged its own messages (4 forward, 8 with backward) unless owner and device are
    the same; the exchange itself counts the union over the subnets of a block on one device.
    """
    remote = np.array(placement.subnet_device)[:, None] != np.array(placement.owner)[None, :]
    one_direction = 2.0 * len(SUBLAYERS) * workload.activation_bytes * remote
    cost = np.zeros((*remote.shape, NUM_OPERATIONS))
    cost[..., Operation.FORWARD_ONLY] = one_direction
    cost[..., Operation.FULL] = 2 * one_direction
    return cost
