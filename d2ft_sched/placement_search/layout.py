"""Layouts: how many subnets of each size every device holds in each block, within its memory."""

from collections.abc import Callable, Sequence

import numpy as np

from d2ft_sched.costs.activation_memory import operation_activation_bytes
from d2ft_sched.costs.memory import dense_bytes, memory_besides_operations
from d2ft_sched.costs.parameters import stored_bytes, subnet_parameters, trained_subnet_parameters
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES
from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica

MEMORY_ROUNDS = 12
"""How often a spread is corrected by the memory that it really takes."""


def to_placement(step: DenseStep, counts: np.ndarray, owner: Sequence[int]) -> Placement:
    """Neighbouring subnets of a size go to the same device, devices in order.

    Args:
        step: whose `devices` the layout counts.
        counts: int ``[num_blocks, num_devices, num_sizes]``.
        owner: device of each micro-batch, within ``step.devices``.
    """
    index, (_, size) = np.array(step.devices), step.sizes
    device = np.empty(step.workload.num_subnets, dtype=np.int64)
    for block in range(step.workload.shape.num_blocks):
        members = np.array(step.workload.partition.of_block(block))
        for s in range(counts.shape[2]):
            device[members[size[members] == s]] = np.repeat(index, counts[block, :, s])
    return Placement(
        len(step.cluster.devices),
        tuple(device.tolist()),
        tuple(index[list(owner)].tolist()),
        step.recomputing,
    )


def to_counts(step: DenseStep, placement: Placement) -> np.ndarray:
    """The layout of a placement on all devices, int ``[num_blocks, num_devices, num_sizes]``."""
    example, size = step.sizes
    counts = np.zeros((len(step.block_counts), placement.num_devices, len(example)), np.int64)
    np.add.at(counts, (step.workload.partition.block, np.array(placement.subnet_device), size), 1)
    return counts


def subnet_bytes(step: DenseStep, kept_share: float) -> np.ndarray:
    """Memory that a subnet of each size takes, without what its block shares, ``[num_sizes]``.

    Args:
        step: the workload.
        kept_share: of what FULL operations keep for backward, which is nothing where every device
            computes forward again.
    """
    workload = step.workload
    if set(step.devices) <= set(step.recomputing):
        kept_share = 0.0
    example, _ = step.sizes
    copies = 1 + OPTIMIZER_STATES[workload.optimizer]
    trained = trained_subnet_parameters(workload)
    stored = stored_bytes(workload, subnet_parameters(workload), trained)
    stored = stored + copies * trained * workload.parameter_bytes
    kept = kept_share * operation_activation_bytes(workload)[example][..., Operation.FULL]
    fullest_wave = np.max([kept[:, wave].sum(axis=1) for wave in step.waves], axis=0)
    return stored[example] + fullest_wave


def excess_bytes(
    step: DenseStep, counts: np.ndarray, owner: Sequence[int], kept_share: float
) -> np.ndarray:
    """By how much each device's memory is exceeded (negative: room), float ``[num_devices]``.

    Where everything is kept by the dense step, else by any schedule that keeps this share of it.
    """
    workload, replica = step.workload, Replica(to_placement(step, counts, owner), step.num_waves)
    index = list(step.devices)
    if kept_share == 1:
        needed = dense_bytes(workload, replica)
    else:
        needed = memory_besides_operations(workload, replica)
        kept = subnet_bytes(step, kept_share) - subnet_bytes(step, 0.0)
        needed[index] += counts.sum(axis=0) @ kept
    memory = np.array([step.cluster.devices[d].memory_bytes for d in index])
    return needed[index] - memory


def has_ample_memory(step: DenseStep) -> bool:
    """Whether any device could hold everything, keep it all, and send it to all others."""
    everything = step.block_counts[:, None, :]
    largest = max(int(step.workload.activation_bytes[wave].sum()) for wave in step.waves)
    messages = largest * (step.num_devices - 1)
    for device in range(step.num_devices):
        own = (step.devices[device],)
        again = own if own[0] in step.recomputing else ()
        alone = DenseStep(step.workload, step.cluster, own, step.num_waves, again)
        owner = (0,) * step.workload.num_microbatches
        if (excess_bytes(alone, everything, owner, 1.0) + messages > 0).any():
            return False
    return True


def spread(
    step: DenseStep,
    devices: Sequence[int],
    every_device: bool = False,
    room_bytes: np.ndarray | None = None,
    bytes_per_subnet: np.ndarray | None = None,
) -> np.ndarray | None:
    """Balance every block over some devices: each subnet, the largest first, where it ends first.

    Optimal for the makespan of a block's lanes where its subnets are of one size; else the longest
    processing time rule (Graham, 1969) on devices of unequal speed.

    Args:
        step: prices of lanes.
        devices: those to use, indices within ``step.devices``; some may stay empty.
        every_device: each of them must hold a subnet of every block.
        room_bytes: what the subnets of each device may take, float ``[num_devices]``; shared evenly
            by the blocks, as far as that goes.
        bytes_per_subnet: what a subnet of each size takes, float ``[num_sizes]``.

    Returns:
        Counts ``[num_blocks, num_devices, num_sizes]``; None where they do not fit.
    """
    block_counts = step.block_counts
    counts = np.zeros((len(block_counts), step.num_devices, block_counts.shape[1]), dtype=np.int64)
    need = np.zeros(block_counts.shape[1]) if bytes_per_subnet is None else bytes_per_subnet
    left = np.full(step.num_devices, np.inf) if room_bytes is None else room_bytes.copy()
    for block, wanted in enumerate(block_counts):
        if block and room_bytes is None and (wanted == block_counts[block - 1]).all():
            counts[block] = counts[block - 1]
            continue
        share = left / (len(block_counts) - block)
        held = _spread_block(step, devices, wanted, every_device, share, left, need)
        if held is None:
            return None
        counts[block] = held
        left = left - held @ need
    return counts


def _spread_block(
    step: DenseStep,
    devices: Sequence[int],
    wanted: np.ndarray,
    every_device: bool,
    share: np.ndarray,
    left: np.ndarray,
    need: np.ndarray,
) -> np.ndarray | None:
    held = np.zeros((step.num_devices, len(wanted)), dtype=np.int64)
    items = np.repeat(np.arange(len(wanted)), wanted)
    if every_device:
        if len(items) < len(devices):
            return None
        slowest_first = sorted(devices, key=lambda d: -_finish_s(step, d, held[d], len(wanted) - 1))
        for device, size in zip(slowest_first, items[::-1].tolist(), strict=False):
            held[device, size] += 1
        items = items[: len(items) - len(devices)]
    for size in items.tolist():
        for limit in (share, left):
            room = [d for d in devices if held[d] @ need + need[size] <= limit[d]]
            if room:
                break
        else:
            return None
        best = min(room, key=lambda d: (_finish_s(step, d, held[d], size), d))
        held[best, size] += 1
    if (held @ need > left).any():
        return None
    return held


def _finish_s(step: DenseStep, device: int, held: np.ndarray, size: int) -> float:
    more = held.copy()
    more[size] += 1
    return float(step.lanes_s(device, more).sum())


def concentrate(
    step: DenseStep,
    devices: Sequence[int],
    owner: Sequence[int],
    room_bytes: np.ndarray,
    bytes_per_subnet: np.ndarray,
) -> np.ndarray | None:
    """Block by block what is fastest with the memory left: one device alone, or all that have room.

    Where messages are dear this keeps as many blocks as possible beside the micro-batches' owner.
    Arguments and result as for `spread`.
    """
    owned = step.owned_bytes(owner)
    counts = np.zeros((len(step.block_counts), step.num_devices, len(bytes_per_subnet)), np.int64)
    left = room_bytes.copy()
    for block, wanted in enumerate(step.block_counts):
        choices = []
        for device in devices:
            if wanted @ bytes_per_subnet <= left[device]:
                alone = np.zeros_like(counts[block])
                alone[device] = wanted
                choices.append(alone)
        shared = _spread_block(step, devices, wanted, False, left, left, bytes_per_subnet)
        choices.extend([] if shared is None else [shared])
        if not choices:
            return None
        counts[block] = min(choices, key=lambda held: step.block_s(held, owned))
        left = left - counts[block] @ bytes_per_subnet
    return counts


def fitted_layouts(
    step: DenseStep,
    devices: Sequence[int],
    owner: Sequence[int],
    kept_share: float,
    *,
    every_device: bool = False,
    reserved_bytes: np.ndarray | float = 0.0,
) -> list[np.ndarray]:
    """`spread` and `concentrate` within every device's memory, where that was reached.

    Args:
        step, devices, every_device: as for `spread`.
        owner: device of each micro-batch.
        kept_share: of what FULL operations keep that must have room.
        reserved_bytes: of each device's memory, float ``[num_devices]``, or of all alike.
    """
    first = spread(step, devices, every_device=every_device)
    need = subnet_bytes(step, kept_share)
    gradients = step.size_parameters * step.workload.parameter_bytes
    memory = sum(step.cluster.devices[step.devices[d]].memory_bytes for d in devices)
    if first is None or (step.block_counts @ (need - gradients)).sum() > memory:
        return []
    found: list[np.ndarray] = []

    def exceeded(counts: np.ndarray) -> np.ndarray:
        return excess_bytes(step, counts, owner, kept_share) + reserved_bytes

    def room_bytes(counts: np.ndarray, excess: np.ndarray) -> np.ndarray:
        return np.maximum(counts.sum(axis=0) @ need - excess, 0.0)

    def fit(make: Callable[[np.ndarray], np.ndarray | None], counts: np.ndarray | None) -> None:
        for _ in range(MEMORY_ROUNDS):
            if counts is None:
                return
            excess = exceeded(counts)
            if (excess <= 0).all():
                found.append(counts)
                return
            again = make(room_bytes(counts, excess))
            if again is not None and (again == counts).all():
                return
            counts = again

    fit(lambda room: spread(step, devices, every_device, room, need), first)
    if not every_device:
        room = room_bytes(first, exceeded(first))
        fit(
            lambda room: concentrate(step, devices, owner, room, need),
            concentrate(step, devices, owner, room, need),
        )
    return found
