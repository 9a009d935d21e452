"""Who sends how much to whom in each phase: the one count that simulator and runtime share.

In every block the owner of a micro-batch dispatches its normed activations to the devices active
for it, and these send partial sums back (combine); once for attention, once for the MLP. Backward,
the gradients take the same ways: to the devices with a subnet that is FULL or rests, and back.
Subnets of a block on one device share their messages. Nothing moves between an owner and itself.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2ft_sched.costs.held import any_held
from d2ft_sched.costs.input_gradients import executed_schedule
from d2ft_sched.model.partition import Partition
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation, runs_backward
from d2ft_sched.schedule.placement import Placement

SUBLAYERS = ("attention", "mlp")
DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Exchange:
    """Messages between owners and active devices.

    Attributes:
        active: bool ``[2 directions, num_blocks, num_devices, num_microbatches]``: whether a device
            runs a subnet of the block on the micro-batch, forward (any operation but SHORTCUT) and
            backward (FULL, or REST that hands a gradient on).
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
        order, owners, first = self._by_owner
        sent = self.active[direction, block][:, order] * self.message_bytes[order]
        matrix = np.zeros((len(sent), len(sent)), dtype=np.int64)
        if len(first) < len(order):
            sent = np.add.reduceat(sent, first, axis=1)
        matrix[owners] = sent.T
        np.fill_diagonal(matrix, 0)
        return matrix

    def sent_bytes(self) -> np.ndarray:
        """Bytes that each device sends in one dispatch, as an owner, int ``[2 directions,
        num_blocks, num_devices]``."""
        order, owners, first = self._by_owner
        num_remote = (self.active.sum(axis=2) - self._at_owner)[..., order]
        sent = np.zeros(self.active.shape[:3], dtype=np.int64)
        sent[..., owners] = np.add.reduceat(num_remote * self.message_bytes[order], first, axis=-1)
        return sent

    def received_bytes(self) -> np.ndarray:
        """Bytes that each device receives in one dispatch, int ``[2 directions, num_blocks,
        num_devices]``."""
        order, owners, first = self._by_owner
        received = np.einsum("xbdm,m->xbd", self.active, self.message_bytes)
        own = (self._at_owner * self.message_bytes)[..., order]
        received[..., owners] -= np.add.reduceat(own, first, axis=-1)
        return received

    @cached_property
    def _by_owner(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Micro-batches ordered by owner, the owners, and where each one's begin."""
        order = np.argsort(self.owner, kind="stable")
        owners, first = np.unique(self.owner[order], return_index=True)
        return order, owners, first

    @property
    def _at_owner(self) -> np.ndarray:
        """Whether the owner itself is active, bool ``[2, num_blocks, num_microbatches]``."""
        return self.active[:, :, self.owner, np.arange(len(self.owner))]

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
        return 2 * len(SUBLAYERS) * int(self.received_bytes().sum())


def plan_exchange(workload: Workload, placement: Placement, schedule: np.ndarray) -> Exchange:
    """The exchange of one step; message size is ``[tokens, width]`` of the workload's elements."""
    executed = executed_schedule(workload, schedule)
    return Exchange(
        active=_active(workload.partition, placement, executed),
        message_bytes=workload.activation_bytes.astype(np.int64),
        owner=np.array(placement.owner),
    )


def _active(partition: Partition, placement: Placement, schedule: np.ndarray) -> np.ndarray:
    runs = np.stack([schedule != Operation.SHORTCUT, runs_backward(schedule)])
    device = np.array(placement.subnet_device)
    return any_held(partition.num_blocks, partition.block, device, placement.num_devices, runs)


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
