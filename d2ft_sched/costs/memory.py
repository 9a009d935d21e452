"""Memory of one training step on every device, in closed form.

Parameters and optimizer state stay. Activations are kept in forward and freed block by block in
backward, while the gradients of the blocks passed appear; the peak is the fullest moment of that,
or the parameter update, when all gradients are there.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.exchange import Exchange, plan_exchange
from d2ft_sched.costs.input_gradients import needs_input_gradient
from d2ft_sched.model.workload import OPTIMIZER_STATES, Workload
from d2ft_sched.schedule.lane_sizes import lane_sizes
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.schedule.waves import wave_microbatches


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes by purpose, float ``[num_devices]`` each.

    Attributes:
        parameters: the subnets held and, on owners, the trunk.
        optimizer_state: values that the optimizer keeps for parameters that train.
        inputs: the images of the micro-batches owned.
        gradients: of all parameters held that train, as they stand after backward.
        activations: kept for backward at the end of the fullest wave's forward pass.
        workspace: what the fullest block needs besides, in forward or backward.
        exchange_buffers: messages on their way, at the fullest dispatch or combine.
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
    workload: Workload, placement: Placement, schedule: np.ndarray, num_waves: int = 1
) -> DeviceMemory:
    """Memory of a step under a schedule, int ``[num_subnets, num_microbatches]``."""
    return _memory(workload, placement, schedule, num_waves)


def memory_besides_operations(
    workload: Workload, placement: Placement, num_waves: int = 1
) -> np.ndarray:
    """Bytes besides what FULL operations keep, at their most, float ``[num_devices]``.

    Whatever the schedule, its peak is at most this and `operation_activation_bytes` of its fullest
    wave; where the dense step fits, any schedule does.
    """
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    return _memory(workload, placement, dense, num_waves, besides_operations=True).total


def _memory(
    workload: Workload,
    placement: Placement,
    schedule: np.ndarray,
    num_waves: int,
    *,
    besides_operations: bool = False,
) -> DeviceMemory:
    """As `device_memory`; or where operations keep nothing and any group may be FORWARD_ONLY."""
    size = workload.parameter_bytes
    parameters = device_parameters(workload, placement) * size
    gradients = trained_device_parameters(workload, placement) * size
    optimizer_state = gradients * OPTIMIZER_STATES[workload.optimizer]
    inputs = _input_bytes(workload, placement)
    block_gradients = _trained_block_parameters(workload, placement) * size
    trunk_gradients = gradients - block_gradients.sum(axis=0)

    activations = np.zeros(placement.num_devices)
    workspace = np.zeros(placement.num_devices)
    exchange_buffers = np.zeros(placement.num_devices)
    largest = gradients.copy()
    gradients_before = np.zeros_like(block_gradients)
    for wave, microbatches in enumerate(wave_microbatches(workload.num_microbatches, num_waves)):
        in_wave = np.where(np.isin(np.arange(workload.num_microbatches), microbatches), schedule, 0)
        exchange = plan_exchange(workload, placement, in_wave)
        gradients_made = np.where(exchange.active[1].any(axis=2), block_gradients, 0)
        kept = _kept_per_block(workload, placement, in_wave, exchange, microbatches)
        if not besides_operations:
            kept += _kept_by_operations(workload, placement, in_wave)
        kept_up_to = np.cumsum(kept, axis=0)
        stream = _owned(placement, microbatches, workload.stream_bytes)
        last_norm = workload.shape.norm_first and (workload.lora is None or gradients_made.any())
        at_ends = (1 + int(last_norm)) * stream  # at the embedding, and in a last norm
        forward, backward = _workspace_per_block(workload, placement, in_wave, stream, microbatches)
        if besides_operations:
            forward = np.maximum(forward, backward)

        before = gradients_before.sum(axis=0) + (trunk_gradients if wave > 0 else 0)
        in_forward = before + (kept_up_to + forward).max(axis=0)
        new = np.where(gradients_before > 0, 0, gradients_made)
        in_addition = np.cumsum(new[::-1], axis=0)[::-1] + (gradients_made - new)
        in_backward = before + at_ends + (kept_up_to + backward + in_addition).max(axis=0)
        largest = np.maximum(largest, np.maximum(in_forward, in_backward))
        activations = np.maximum(activations, kept_up_to[-1] + at_ends)
        workspace = np.maximum(workspace, np.maximum(forward, backward).max(axis=0))
        exchange_buffers = np.maximum(exchange_buffers, _exchange_buffers(exchange))
        gradients_before = np.maximum(gradients_before, gradients_made)
    return DeviceMemory(
        parameters=parameters,
        optimizer_state=optimizer_state,
        inputs=inputs,
        gradients=gradients,
        activations=activations,
        workspace=workspace,
        exchange_buffers=exchange_buffers,
        total=parameters + optimizer_state + inputs + largest + exchange_buffers,
    )


def subnet_parameters(workload: Workload) -> np.ndarray:
    """Parameters of every subnet, its part of adapters included, int ``[num_subnets]``."""
    shape, partition = workload.shape, workload.partition
    base = partition.heads * shape.head_parameters + partition.hidden * shape.hidden_unit_parameters
    return base if workload.lora is None else base + trained_subnet_parameters(workload)


def trained_subnet_parameters(workload: Workload) -> np.ndarray:
    """Those that train: all of them, or the part of adapters."""
    if workload.lora is None:
        return subnet_parameters(workload)
    shape, partition, lora = workload.shape, workload.partition, workload.lora
    return partition.heads * lora.head_parameters(shape) + partition.hidden * (
        lora.hidden_unit_parameters
    )


def shared_block_parameters(workload: Workload) -> int:
    """Factors of adapters that every device with a subnet of a block holds; they train."""
    return 0 if workload.lora is None else workload.lora.shared_parameters(workload.shape)


def trained_trunk_parameters(workload: Workload) -> int:
    """The trunk's parameters that train: all of them, or the classifier's."""
    shape = workload.shape
    return shape.trunk_parameters if workload.lora is None else shape.classifier_parameters


def trained_parameters(workload: Workload) -> int:
    """All parameters that train, each counted once."""
    in_blocks = int(trained_subnet_parameters(workload).sum())
    in_blocks += workload.shape.num_blocks * shared_block_parameters(workload)
    return in_blocks + trained_trunk_parameters(workload)


def device_parameters(workload: Workload, placement: Placement) -> np.ndarray:
    """Parameters that every device holds, float ``[num_devices]``."""
    held = _block_parameters(workload, placement, subnet_parameters(workload)).sum(axis=0)
    held[list(placement.owners)] += workload.shape.trunk_parameters
    return held


def trained_device_parameters(workload: Workload, placement: Placement) -> np.ndarray:
    """Those of them that train, float ``[num_devices]``."""
    held = _trained_block_parameters(workload, placement).sum(axis=0)
    held[list(placement.owners)] += trained_trunk_parameters(workload)
    return held


def operation_activation_bytes(workload: Workload) -> np.ndarray:
    """Bytes that an operation keeps for backward, float ``[num_subnets, num_microbatches, 3]``.

    Additive: queries, keys, values, their mix and one normaliser per head and token; hidden units
    before and after the activation function. Only FULL keeps anything.
    """
    kept = np.zeros((workload.num_subnets, workload.num_microbatches, NUM_OPERATIONS))
    kept[..., Operation.FULL] = _kept_bytes_per_token(workload)[:, None] * workload.tokens
    return kept


def _kept_bytes_per_token(workload: Workload) -> np.ndarray:
    """Bytes that FULL keeps for each token, int ``[num_subnets]``."""
    partition = workload.partition
    values = partition.heads * (4 * workload.shape.head_dim + 1) + 2 * partition.hidden
    return values * workload.element_bytes


def _block_parameters(
    workload: Workload, placement: Placement, of_subnet: np.ndarray
) -> np.ndarray:
    """Parameters of the subnets held and what they share, float ``[num_blocks, num_devices]``."""
    held = np.zeros((workload.shape.num_blocks, placement.num_devices))
    at = (workload.partition.block, np.array(placement.subnet_device))
    np.add.at(held, at, of_subnet)
    is_there = np.zeros(held.shape, dtype=bool)
    is_there[at] = True
    return held + np.where(is_there, shared_block_parameters(workload), 0)


def _trained_block_parameters(workload: Workload, placement: Placement) -> np.ndarray:
    return _block_parameters(workload, placement, trained_subnet_parameters(workload))


def _input_bytes(workload: Workload, placement: Placement) -> np.ndarray:
    image_elements = workload.shape.embed_flops / (2 * workload.shape.width)
    return np.bincount(
        placement.owner,
        weights=workload.samples * image_elements * workload.parameter_bytes,
        minlength=placement.num_devices,
    )


def _owned(placement: Placement, microbatches: np.ndarray, of_each: np.ndarray) -> np.ndarray:
    """Sum of a value per micro-batch over those that each device owns, ``[num_devices]``."""
    return np.bincount(
        np.array(placement.owner)[microbatches],
        weights=of_each[microbatches],
        minlength=placement.num_devices,
    )


def _kept_by_operations(
    workload: Workload, placement: Placement, schedule: np.ndarray
) -> np.ndarray:
    """`operation_activation_bytes` of a schedule, float ``[num_blocks, num_devices]``."""
    trained_tokens = np.einsum("sm,m->s", schedule == Operation.FULL, workload.tokens)
    kept = np.zeros((workload.shape.num_blocks, placement.num_devices))
    at = (workload.partition.block, np.array(placement.subnet_device))
    np.add.at(kept, at, _kept_bytes_per_token(workload) * trained_tokens)
    return kept


def _kept_per_block(
    workload: Workload,
    placement: Placement,
    schedule: np.ndarray,
    exchange: Exchange,
    microbatches: np.ndarray,
) -> np.ndarray:
    """Bytes kept by each block besides operations' own, float ``[num_blocks, num_devices]``.

    Lanes keep both sub-layers' inputs and their products with shared factors of adapters. Owners
    keep the inputs of norms that a gradient goes through: where the norm comes first, in blocks
    that any device trains; where it comes last, everywhere if the norms train, else from the first
    block that any device trains on. Where LayerScale trains, and any device runs the block, they
    keep both branches before it.
    """
    runs, trains = exchange.active
    owned = _owned(placement, microbatches, workload.activation_bytes)
    received = exchange.received_bytes()[0]
    num_products = 0 if workload.lora is None else sum(workload.shape.num_maps_in) + 2
    rank = 0 if workload.lora is None else workload.lora.rank
    products = num_products * rank / workload.shape.width
    kept = (2 + products) * np.where(trains.any(axis=2), owned + received, 0)
    is_trained = trains.any(axis=(1, 2))
    if workload.shape.norm_first:
        norms = is_trained * needs_input_gradient(workload, schedule).any(axis=2).sum(axis=1)
    else:
        norms = 2 * (np.logical_or.accumulate(is_trained) | (workload.lora is None))
    kept += norms[:, None] * _owned(placement, microbatches, workload.stream_bytes)
    if workload.shape.layer_scale and workload.lora is None:
        kept += 2 * np.where(runs.any(axis=(1, 2)), 1, 0)[:, None] * owned
    return kept


def _workspace_per_block(
    workload: Workload,
    placement: Placement,
    schedule: np.ndarray,
    stream: np.ndarray,
    microbatches: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes that each block needs besides what it keeps, float ``[num_blocks, num_devices]``.

    Forward: normed activations, branch and scaled branch, and the hidden units of the largest
    FORWARD_ONLY group before and after the activation function. Backward: the gradients of the
    residual stream, of the branch and of its input, and those of the hidden units of the largest
    FULL group.
    """
    groups = lane_sizes(workload, placement, schedule, microbatches)
    tensors = (2 + int(workload.shape.layer_scale)) * stream
    fullest = []
    for operation in (Operation.FORWARD_ONLY, Operation.FULL):
        run = groups.select(groups.operation == operation)
        hidden = np.zeros((workload.shape.num_blocks, placement.num_devices))
        np.maximum.at(hidden, (run.block, run.device), run.hidden * run.tokens)
        fullest.append(tensors + 2 * workload.element_bytes * hidden)
    return fullest[0], fullest[1]


def _exchange_buffers(exchange: Exchange) -> np.ndarray:
    """Bytes sent and received by each device in the fullest dispatch, float ``[num_devices]``."""
    return (exchange.sent_bytes() + exchange.received_bytes()).max(axis=(0, 1)).astype(float)
