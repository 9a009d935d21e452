"""Activations of one training step: what is kept for backward, and what a block needs besides."""

import numpy as np

from d2ft_sched.costs.exchange import Exchange
from d2ft_sched.costs.held import held_by_any, owned_sum
from d2ft_sched.costs.input_gradients import needs_input_gradient
from d2ft_sched.costs.lane_groups import LaneGroups
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation, trains_in_step
from d2ft_sched.schedule.placement import Placement


def operation_activation_bytes(workload: Workload) -> np.ndarray:
    """Bytes that an operation keeps for backward, float ``[num_subnets, num_microbatches, 4]``.

    Additive: queries, keys, values, their mix and one normaliser per head and token; hidden units
    before and, for dW, after the activation function. Only FULL and REST keep anything.
    """
    return _kept_bytes_per_token(workload).sum(axis=0)[:, None] * workload.tokens[:, None]


def _kept_bytes_per_token(workload: Workload) -> np.ndarray:
    """Bytes that operations keep for each token, float ``[2 sublayers, num_subnets, 4]``."""
    partition = workload.partition
    kept = np.zeros((2, workload.num_subnets, len(Operation)))
    attention = partition.heads * (4 * workload.shape.head_dim + 1)
    kept[0][:, [Operation.FULL, Operation.REST]] = attention[:, None]
    kept[1, :, Operation.FULL] = 2 * partition.hidden
    kept[1, :, Operation.REST] = partition.hidden
    return kept * workload.element_bytes


def kept_by_groups(
    workload: Workload, placement: Placement, schedule: np.ndarray, groups: LaneGroups
) -> np.ndarray:
    """`operation_activation_bytes` of all that the groups of a wave compute, float
    ``[num_blocks, num_devices]``: of groups that train all cells, whatever the schedule asks for,
    of others that run backward the micro-batches whose gradient is handed on."""
    needs_dx = needs_input_gradient(workload, schedule)[groups.block][..., groups.microbatches]
    sizes = groups.sizes
    runs_tokens = (
        np.stack(
            [groups.runs_backward_on(of_sublayer) for of_sublayer in needs_dx.transpose(1, 0, 2)]
        )
        @ workload.tokens[groups.microbatches]
    )
    kept = runs_tokens[0] * sizes.heads * (4 * workload.shape.head_dim + 1)
    kept += runs_tokens[1] * sizes.hidden * (1 + sizes.trains)
    total = np.zeros((workload.shape.num_blocks, placement.num_devices))
    np.add.at(total, (groups.block, groups.device), kept * float(workload.element_bytes))
    return total


def kept_per_block(
    workload: Workload,
    placement: Placement,
    schedule: np.ndarray,
    exchange: Exchange,
    microbatches: np.ndarray,
) -> np.ndarray:
    """Bytes kept by each block besides operations' own, float ``[num_blocks, num_devices]``.

    Lanes keep both sub-layers' inputs and their products with shared factors of adapters where they
    train. Owners keep the inputs of norms that a gradient goes through: where the norm comes first,
    in blocks that hand one on; where it comes last, everywhere if the norms train, else from the
    first block that any device trains on. Where LayerScale trains, and any device runs the block,
    they keep both branches before it.
    """
    runs, hands_on = exchange.active
    trains = held_by_any(workload, placement, trains_in_step(schedule))
    owned = owned_sum(placement, microbatches, workload.activation_bytes)
    received = exchange.received_bytes()[0]
    num_products = 0 if workload.lora is None else sum(workload.shape.num_maps_in) + 2
    rank = 0 if workload.lora is None else workload.lora.rank
    products = num_products * rank / workload.shape.width
    kept = (2 + products) * np.where(trains, owned + received, 0)
    if workload.shape.norm_first:
        norms = hands_on.any(axis=(1, 2)) * needs_input_gradient(workload, schedule).any(
            axis=2
        ).sum(axis=1)
    else:
        norms = 2 * (np.logical_or.accumulate(trains.any(axis=1)) | (workload.lora is None))
    kept += norms[:, None] * owned_sum(placement, microbatches, workload.stream_bytes)
    if workload.shape.layer_scale and workload.lora is None:
        kept += 2 * np.where(runs.any(axis=(1, 2)), 1, 0)[:, None] * owned
    return kept


def workspace_per_block(
    workload: Workload, placement: Placement, groups: LaneGroups, stream: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes that each block needs besides what it keeps, float ``[num_blocks, num_devices]``.

    Forward: normed activations, branch and scaled branch, and the hidden units of the largest group
    that are not kept: of FORWARD_ONLY before and after the activation function, of REST after it;
    and what is masked.
    Backward: the gradients of the residual stream, of the branch and of its input, and those of the
    hidden units of the largest group that has a backward pass.
    """
    tensors = (2 + int(workload.shape.layer_scale)) * stream
    fullest = []
    sizes = groups.sizes
    in_forward = np.where(sizes.runs_backward, sizes.is_masked + ~sizes.trains, 2)
    for of_group in (in_forward, 2 * sizes.runs_backward):
        hidden = np.zeros((workload.shape.num_blocks, placement.num_devices))
        of_each = sizes.hidden * sizes.tokens * of_group
        np.maximum.at(hidden, (groups.block, groups.device), of_each)
        fullest.append(tensors + workload.element_bytes * hidden)
    return fullest[0], fullest[1]
