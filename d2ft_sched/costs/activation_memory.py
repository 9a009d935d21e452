"""Activations of one training step: what is kept for backward, and what a block needs besides."""

import numpy as np

from d2ft_sched.costs.exchange import Exchange
from d2ft_sched.costs.flops import subnets_recompute
from d2ft_sched.costs.held import held_by_any, owned_sum
from d2ft_sched.costs.input_gradients import needs_input_gradient
from d2ft_sched.costs.lanes.lane_groups import LaneGroups
from d2ft_sched.model.workload import ELEMENT_BYTES, Workload
from d2ft_sched.schedule.operations import Operation, trains_in_step
from d2ft_sched.schedule.placement import Placement

_RMS_TENSORS = 3
"""In float32, there at once while an RMS norm is computed, forward or backward."""


def operation_activation_bytes(
    workload: Workload, placement: Placement | None = None
) -> np.ndarray:
    """Bytes that an operation keeps for backward, float ``[num_subnets, num_microbatches, 4]``;
    nothing on devices of the placement that compute forward again.

    Additive: queries, keys, values, their mix and one normaliser per head of queries and token;
    where queries and keys are normed, these before it in float32 and, for dW, after it; hidden
    units before and, for dW, after the activation function, of gated ones gate, up and the
    function's value and, for dW, their product. Only FULL and REST keep anything.
    """
    kept = _kept_bytes_per_token(workload).sum(axis=0)
    kept[subnets_recompute(workload, placement)] = 0
    return kept[:, None] * workload.tokens[:, None]


def _kept_bytes_per_token(workload: Workload) -> np.ndarray:
    """Bytes that operations keep for each token, float ``[2 sublayers, num_subnets, 4]``."""
    partition = workload.partition
    of_units = zip((partition.heads, partition.hidden), _kept_bytes_per_unit(workload), strict=True)
    return np.array([units[:, None] * of_each for units, of_each in of_units])


def _kept_bytes_per_unit(workload: Workload) -> np.ndarray:
    """Bytes that operations keep for each token of a head, and of a hidden unit, ``[2, 4]``."""
    shape, size = workload.shape, workload.element_bytes
    kept = np.zeros((2, len(Operation)))
    both = [Operation.FULL, Operation.REST]
    kept[0, both] = size * (shape.head_rows + shape.head_columns + shape.queries_per_head)
    if shape.query_key_norm:
        normed = (shape.queries_per_head + 1) * shape.head_dim * ELEMENT_BYTES["float32"]
        kept[0, both] += normed
        kept[0, Operation.FULL] += normed * (workload.lora is None)
    kept[1, both] = size * (3 if shape.gated_mlp else 1)
    kept[1, Operation.FULL] += size
    return kept


def norm_kept_bytes(
    workload: Workload, placement: Placement, microbatches: np.ndarray
) -> np.ndarray:
    """Bytes that one norm of the trunk keeps on the owners of micro-batches, ``[num_devices]``: its
    input and, of an RMS norm whose scale trains, what it is multiplied with."""
    twice = workload.shape.norm == "rms" and workload.lora is None
    return (1 + twice) * owned_sum(placement, microbatches, workload.norm_bytes)


def kept_by_groups(
    workload: Workload, placement: Placement, schedule: np.ndarray, groups: LaneGroups
) -> np.ndarray:
    """`operation_activation_bytes` of all that the groups of a wave compute, float
    ``[num_blocks, num_devices]``: of subnets that groups train all cells, whatever the schedule
    asks for; of others that run backward what REST keeps, on all micro-batches where the group
    trains anything, else on those whose gradient is handed on."""
    needs_dx = needs_input_gradient(workload, schedule)[groups.block][..., groups.microbatches]
    tokens, sizes = workload.tokens[groups.microbatches], groups.sizes
    total = np.zeros((workload.shape.num_blocks, placement.num_devices))
    of_sublayers = (sizes.heads, sizes.trained_heads), (sizes.hidden, sizes.trained_hidden)
    for sublayer, ((units, trained), of_unit) in enumerate(
        zip(of_sublayers, _kept_bytes_per_unit(workload), strict=True)
    ):
        rests = units - trained
        of_group = trained * of_unit[Operation.FULL] + rests * of_unit[Operation.REST]
        held = (workload.partition.heads, workload.partition.hidden)[sublayer]
        own_tokens = groups.runs_backward_on(held, needs_dx[:, sublayer]) @ tokens
        np.add.at(total, (groups.block, groups.device), of_group * own_tokens)
    return total * ~placement.recomputes


def kept_per_block(
    workload: Workload,
    placement: Placement,
    schedule: np.ndarray,
    exchange: Exchange,
    microbatches: np.ndarray,
) -> np.ndarray:
    """Bytes kept by each block besides operations' own, float ``[num_blocks, num_devices]``.

    Lanes keep both sub-layers' inputs and their products with shared factors of adapters where they
    train, and the inputs where forward is computed again. Owners keep the inputs of norms that a
    gradient goes through: where the norm comes first, in blocks that hand one on; where it comes
    last, everywhere if the norms train, else from the first block that any device trains on. Where
    LayerScale trains, and any device runs the block, they keep both branches before it.
    """
    runs, hands_on = exchange.active
    trains = held_by_any(workload, placement, trains_in_step(schedule))
    owned = owned_sum(placement, microbatches, workload.activation_bytes)
    received = exchange.received_bytes()[0]
    num_products = 0 if workload.lora is None else sum(workload.shape.num_maps_in) + 2
    rank = 0 if workload.lora is None else workload.lora.rank
    products = num_products * rank / workload.shape.width
    again = hands_on.any(axis=2) & placement.recomputes
    kept = (2 * (trains | again) + products * trains) * (owned + received)
    if workload.shape.norm_first:
        norms = hands_on.any(axis=(1, 2)) * needs_input_gradient(workload, schedule).any(
            axis=2
        ).sum(axis=1)
    else:
        norms = 2 * (np.logical_or.accumulate(trains.any(axis=1)) | (workload.lora is None))
    kept += norms[:, None] * norm_kept_bytes(workload, placement, microbatches)
    if workload.shape.layer_scale and workload.lora is None:
        kept += 2 * np.where(runs.any(axis=(1, 2)), 1, 0)[:, None] * owned
    return kept


def workspace_per_block(
    workload: Workload,
    placement: Placement,
    groups: LaneGroups,
    stream: np.ndarray,
    microbatches: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes that each block needs besides what it keeps, float ``[num_blocks, num_devices]``.

    Forward: normed activations, branch and scaled branch, and the hidden units of the largest group
    that are not kept: of FORWARD_ONLY before and after the activation function, after it where some
    rest; and what is masked.
    Backward: the gradients of the residual stream, of the branch and of its input, and those of the
    hidden units of the largest group that has a backward pass; where forward is computed again,
    what that keeps and the gradients of either sub-layer. Or what an RMS norm needs, where that is
    more.
    """
    shape, size = workload.shape, workload.element_bytes
    sizes = groups.sizes
    again = placement.recomputes[sizes.device]
    values = 4 if shape.gated_mlp else 2
    # Of every hidden unit: FORWARD_ONLY has all, what runs backward what it does not keep.
    some_rest = sizes.trained_hidden < sizes.hidden
    in_forward = np.where(sizes.runs_backward, sizes.is_masked + some_rest, values)
    again_in_forward, in_backward = values, values * sizes.runs_backward
    kind = np.where(sizes.trains, Operation.FULL, Operation.REST)
    kind = np.where(sizes.runs_backward, kind, Operation.FORWARD_ONLY)
    of_head, of_hidden = _kept_bytes_per_unit(workload)
    hidden_kept, heads_kept = (again * of_unit[kind] for of_unit in (of_hidden, of_head))
    gradients = size * (shape.head_rows + shape.head_columns)
    needed = (
        sizes.hidden * size * np.where(again, again_in_forward, in_forward),
        np.maximum(
            sizes.hidden * (size * in_backward + hidden_kept),
            sizes.heads * (heads_kept > 0) * (gradients + heads_kept),
        ),
    )
    norm = np.zeros(placement.num_devices)
    if shape.norm == "rms":
        norm = stream + _RMS_TENSORS * owned_sum(placement, microbatches, workload.norm_bytes)
    tensors = (2 + int(shape.layer_scale)) * stream
    fullest = []
    for of_group in needed:
        most = np.zeros((shape.num_blocks, placement.num_devices))
        np.maximum.at(most, (groups.block, groups.device), of_group * sizes.tokens)
        fullest.append(np.maximum(tensors + most, norm))
    return fullest[0], fullest[1]
