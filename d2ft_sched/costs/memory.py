"""Memory of one training step on every device, in closed form.

Parameters and optimizer state stay. Activations are kept in forward and freed block by block in
backward, while the gradients of the blocks passed appear; the peak is the fullest moment of that,
or the parameter update, when all gradients are there. What a device holds of a block's subnets has
its gradients together, none where all of them rest; where some do, the update of the block keeps a
copy of these and of what the optimizer keeps for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.activation_memory import (
    kept_by_groups,
    kept_per_block,
    norm_kept_bytes,
    workspace_per_block,
)
from d2ft_sched.costs.exchange import Exchange, plan_exchange
from d2ft_sched.costs.held import held_by_any, held_sum, on_owners, owned_sum
from d2ft_sched.costs.input_gradients import executed_schedule
from d2ft_sched.costs.lanes.lane_groups import lane_groups
from d2ft_sched.costs.parameters import (
    device_parameters,
    shared_factors_held,
    stored_bytes,
    trained_device_parameters,
    trained_subnet_parameters,
    trained_trunk_parameters,
)
from d2ft_sched.costs.partial_update import column_parameters, partial_updates
from d2ft_sched.costs.vocabulary_head import (
    embedding_again,
    head_gradient_values,
    head_workspace_bytes,
)
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES, TOGETHER
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation, trains_in_step
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.schedule.wave_part import WavePart, wave_parts
from d2ft_sched.schedule.waves import running_microbatches

MOST_REMEMBERED = 1024


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes by purpose, float ``[num_devices]`` each.

    Attributes:
        parameters: the subnets held and, on owners, the trunk.
        optimizer_state: values that the optimizer keeps for parameters that train.
        inputs: the images of the micro-batches owned.
        gradients: of all parameters held that train in the step, as they stand after backward.
        activations: kept for backward at the end of the fullest wave's forward pass.
        workspace: what the fullest block, or the head over a vocabulary, needs besides, in forward
            or backward.
        exchange_buffers: messages on their way, at the fullest dispatch or combine, and copies of
            gradients for their sums.
        total: the peak; less than the sum, for gradients appear while activations are freed.
    """

    parameters: np.ndarray
    optimizer_state: np.ndarray
    inputs: np.ndarray
    gradients: np.ndarray
    activations: np.ndarray
    workspace: np.ndarray
    exchange_buffers: np.ndarray
    total: np.ndarray


def device_memory(
    workload: Workload,
    replica: Replica,
    schedule: np.ndarray,
    trains: np.ndarray | None = None,
    devices: Sequence[Device | None] | None = None,
    copied_for_sums: np.ndarray | None = None,
) -> DeviceMemory:
    """Memory of a step under a schedule.

    Args:
        workload: model, partition, mini-batch and optimizer.
        replica: device of every subnet, owner of every micro-batch, and waves of them.
        schedule: int ``[num_subnets, num_microbatches]``.
        trains: which subnets train in the step, in other replicas if not here, bool
            ``[num_subnets]``; default those that the schedule trains.
        devices: whose prices say what runs together, see `d2ft_sched.costs.lanes.lane_groups`.
        copied_for_sums: bytes of gradients of each block that are copied for sums with other
            replicas, float ``[num_blocks, num_devices]``; default none.
    """
    if trains is None:
        trains = trains_in_step(schedule)
    is_copied = copied_for_sums is not None and bool(copied_for_sums.any())
    if not is_copied and trains.all() and (schedule == Operation.FULL).all():
        return dense_memory(workload, replica)
    executed = executed_schedule(workload, schedule)
    return _memory(workload, replica, executed, trains, devices, copied_for_sums)


def memory_besides_operations(workload: Workload, replica: Replica) -> np.ndarray:
    """Bytes besides what operations keep, at their most, float ``[num_devices]``.

    Whatever the schedule, its peak is at most this and `operation_activation_bytes` of its fullest
    wave; where this and the dense step fit, any schedule does.
    """
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    every = trains_in_step(dense)
    return _memory(workload, replica, dense, every, besides_operations=True).total


@lru_cache(maxsize=MOST_REMEMBERED)
def dense_memory(workload: Workload, replica: Replica) -> DeviceMemory:
    """`device_memory` of the dense step, to read only; searches and steps ask for the same again
    and again. Its groups are whole whatever they cost."""
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    executed = executed_schedule(workload, dense)
    needed = _memory(workload, replica, executed, trains_in_step(dense))
    for of_purpose in vars(needed).values():
        of_purpose.setflags(write=False)
    return needed


def dense_bytes(workload: Workload, replica: Replica) -> np.ndarray:
    """What the dense step needs, float ``[num_devices]``, to read only."""
    return dense_memory(workload, replica).total


def merging_devices(
    workload: Workload, placement: Placement, devices: Sequence[Device | None]
) -> tuple[Device | None, ...]:
    """The devices, None for those whose memory the dense step in one wave would not fit.

    Groups of these compute what the schedule asks for and nothing else, for what they computed
    besides would be kept for backward.
    """
    needed = dense_bytes(workload, Replica(placement))
    return tuple(
        device if device is not None and total <= device.memory_bytes else None
        for device, total in zip(devices, needed, strict=True)
    )


def _memory(
    workload: Workload,
    replica: Replica,
    schedule: np.ndarray,
    trains: np.ndarray,
    devices: Sequence[Device | None] | None = None,
    copied_for_sums: np.ndarray | None = None,
    *,
    besides_operations: bool = False,
) -> DeviceMemory:
    """As `device_memory`; or where operations keep nothing and any group may be FORWARD_ONLY."""
    placement, size = replica.placement, workload.parameter_bytes
    trained = trained_device_parameters(workload, placement)
    parameters = stored_bytes(workload, device_parameters(workload, placement), trained)
    optimizer_state = trained * size * OPTIMIZER_STATES[workload.optimizer]
    inputs = _input_bytes(workload, placement, running_microbatches(schedule))
    block_gradients = _block_gradient_bytes(workload, placement, trains)
    trunk_gradients = on_owners(placement, trained_trunk_parameters(workload) * size)
    gradients = block_gradients.sum(axis=0) + trunk_gradients
    head_gradient = on_owners(placement, head_gradient_values(workload) * size)
    made_again = on_owners(placement, embedding_again(workload) * size)

    activations = np.zeros(placement.num_devices)
    workspace = np.zeros(placement.num_devices)
    exchange_buffers = np.zeros(placement.num_devices)
    copied_in_update = _copied_in_update(workload, placement, trains, besides_operations)
    gradients_before = np.zeros_like(block_gradients)
    if copied_for_sums is None:
        copied_for_sums = np.zeros_like(block_gradients)
    all_copied = copied_for_sums.sum(axis=0)
    largest = gradients + all_copied + np.maximum(made_again, copied_in_update)
    seen: dict[tuple[WavePart, bool], np.ndarray] = {}
    for wave, part in enumerate(wave_parts(workload, replica, schedule)):
        alike = seen.get((part, wave > 0))
        if alike is not None and np.array_equal(alike, gradients_before):
            continue
        seen[part, wave > 0] = gradients_before
        workload, placement, in_wave = part.workload, part.placement, part.schedule
        microbatches = part.microbatches
        exchange = plan_exchange(workload, placement, in_wave)
        in_wave_trains = held_by_any(workload, placement, trains_in_step(in_wave))
        gradients_made = np.where(in_wave_trains, block_gradients, 0)
        groups = lane_groups(workload, placement, in_wave, microbatches, devices)
        kept = kept_per_block(workload, placement, in_wave, exchange, microbatches)
        if not besides_operations:
            kept += kept_by_groups(workload, placement, in_wave, groups)
        kept_up_to = np.cumsum(kept, axis=0)
        stream = owned_sum(placement, microbatches, workload.stream_bytes)
        last_norm = workload.shape.norm_first and (workload.lora is None or gradients_made.any())
        at_ends = stream + last_norm * norm_kept_bytes(workload, placement, microbatches)
        head = np.zeros(placement.num_devices)
        if workload.shape.vocabulary_size:
            at_ends = at_ends + stream  # the gradient of the head's input
            head = head_workspace_bytes(
                workload, owned_sum(placement, microbatches, workload.tokens)
            )
        forward, backward = workspace_per_block(workload, placement, groups, stream, microbatches)
        if besides_operations:
            forward = np.maximum(forward, backward)

        before = gradients_before.sum(axis=0)
        if wave > 0:
            before = before + trunk_gradients + all_copied
        in_forward = before + (kept_up_to + forward).max(axis=0)
        in_head = before + at_ends + kept_up_to[-1] + head + head_gradient
        first = head_gradient if wave == 0 else np.zeros_like(head_gradient)
        new = np.where(gradients_before > 0, 0, gradients_made)
        appears = new if wave > 0 else new + copied_for_sums
        in_addition = np.cumsum(appears[::-1], axis=0)[::-1] + (gradients_made - new)
        in_backward = before + at_ends + first + (kept_up_to + backward + in_addition).max(axis=0)
        largest = np.max([largest, in_forward, in_head, in_backward], axis=0)
        activations = np.maximum(activations, kept_up_to[-1] + at_ends)
        workspace = np.max([workspace, head, np.maximum(forward, backward).max(axis=0)], axis=0)
        exchange_buffers = np.maximum(exchange_buffers, _exchange_buffers(exchange))
        gradients_before = np.maximum(gradients_before, gradients_made)
    return DeviceMemory(
        parameters=parameters,
        optimizer_state=optimizer_state,
        inputs=inputs,
        gradients=gradients,
        activations=activations,
        workspace=workspace,
        exchange_buffers=exchange_buffers + all_copied,
        total=parameters + optimizer_state + inputs + largest + exchange_buffers,
    )


def _block_gradient_bytes(
    workload: Workload, placement: Placement, trains: np.ndarray
) -> np.ndarray:
    """Of all subnets of a block that a device holds if any of them trains in the step, and of
    shared factors, float ``[num_blocks, num_devices]``."""
    held = held_sum(workload, placement, trained_subnet_parameters(workload))
    held *= held_by_any(workload, placement, trains)
    held += shared_factors_held(workload, placement, trains)
    return held * workload.parameter_bytes


def _copied_in_update(
    workload: Workload, placement: Placement, trains: np.ndarray, is_most: bool
) -> np.ndarray:
    """Bytes at the same time, float ``[num_devices]``: of the fullest block, or of all where an
    optimizer looks at whole weights; or the most, whatever trains."""
    copied = partial_updates(workload, placement, trains).copied
    if is_most:
        values, states = trained_subnet_parameters(workload), OPTIMIZER_STATES[workload.optimizer]
        most = np.maximum(values * (1 + states), column_parameters(workload) * (2 + states))
        copied = held_sum(workload, placement, most)
    at_once = copied.sum(axis=0) if workload.optimizer in TOGETHER else copied.max(axis=0)
    return at_once * workload.parameter_bytes


def _input_bytes(workload: Workload, placement: Placement, running: np.ndarray) -> np.ndarray:
    image_elements = workload.shape.embed_flops / (2 * workload.shape.width)
    of_each = workload.samples * image_elements * workload.parameter_bytes
    return owned_sum(placement, running, of_each)


def _exchange_buffers(exchange: Exchange) -> np.ndarray:
    """Bytes sent and received by each device in the fullest dispatch, float ``[num_devices]``."""
    return (exchange.sent_bytes() + exchange.received_bytes()).max(axis=(0, 1)).astype(float)
