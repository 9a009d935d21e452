"""Memory of a step of several replicas: that of each, and the buckets of their gradient sums."""

from collections.abc import Sequence

import numpy as np

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.gradient_sums import GradientSum, gradient_sums
from d2ft_sched.costs.held import held_sum
from d2ft_sched.costs.memory import DeviceMemory, device_memory, merging_devices
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import trains_in_step
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.replica_part import ReplicaPart, replica_parts


def replicas_memory(
    workload: Workload,
    replicas: Sequence[Replica],
    schedule: np.ndarray,
    sums: Sequence[GradientSum] | None = None,
    *,
    overlap: bool = False,
    devices: Sequence[Device] | None = None,
) -> DeviceMemory:
    """Memory of a step of all replicas.

    Args:
        workload: model, partition, mini-batch and optimizer.
        replicas: the copies of the model, which share no device.
        schedule: int ``[num_subnets, num_microbatches]``, of all replicas.
        sums: of the step, if they are known already.
        overlap: whether waves overlap, so that all of them keep their activations at once.
        devices: what runs together there is kept together; default what the schedule asks for.
    """
    if sums is None:
        sums = gradient_sums(workload, replicas, schedule)
    trains = trains_in_step(schedule)
    copied, on_their_way = sum_bytes(workload, replicas, sums)
    everyone = np.arange(replicas[0].placement.num_devices)
    of_parts = [
        vars(
            device_memory(
                part.workload,
                part.placement,
                part.schedule,
                1 if overlap else part.num_waves,
                trains,
                part_devices(part, devices),
                copied * np.isin(everyone, replica.devices),
            )
        )
        for replica, part in zip(replicas, replica_parts(workload, replicas, schedule), strict=True)
    ]
    by_purpose = {name: sum(one[name] for one in of_parts) for name in of_parts[0]}
    for name in ("exchange_buffers", "total"):
        by_purpose[name] = by_purpose[name] + on_their_way
    return DeviceMemory(**by_purpose)


def part_devices(
    part: ReplicaPart, devices: Sequence[Device | None] | None
) -> tuple[Device | None, ...] | None:
    """`merging_devices` of what a replica does in a step."""
    if devices is None:
        return None
    return merging_devices(part.workload, part.placement, devices)


def sum_bytes(
    workload: Workload, replicas: Sequence[Replica], sums: Sequence[GradientSum]
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes that gradient sums need besides the gradients: copied of each block, float
    ``[num_blocks, num_devices]``, and on their way, float ``[num_devices]``.

    Gradients lie in their bucket; where a sum has a part only of what a device holds of a block,
    that part is copied, and kept until the step ends. Of the fullest bucket a part on its way out
    and one on its way in are there besides.
    """
    num_devices, partition = replicas[0].placement.num_devices, workload.partition
    on_their_way = np.zeros(num_devices)
    copied = np.zeros((partition.num_blocks, num_devices))
    held = np.zeros((2, partition.num_blocks, num_devices))
    for replica in replicas:
        for of_kind, units in zip(held, (partition.heads, partition.hidden), strict=True):
            of_kind += held_sum(workload, replica.placement, units)
    for one in sums:
        members = list(one.members)
        num_bytes = one.num_values * workload.parameter_bytes
        on_their_way[members] = np.maximum(on_their_way[members], 2 * num_bytes / len(members))
        if len(one.heads) or len(one.hidden):
            units = held[:, one.block, members]
            is_part = (units > np.array([[len(one.heads)], [len(one.hidden)]])).any(axis=0)
            copied[one.block, members] += is_part * num_bytes
    return copied, on_their_way
