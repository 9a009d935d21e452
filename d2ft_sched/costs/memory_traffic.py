"""Bytes that each phase of a step reads and writes, in closed form.

Matrix products and attention count every operand and result once (caches are taken to hold the
rest), elementwise work counts every pass over its tensors. These bytes are the work axis of the
curves of trunk and optimizer, and the memory roof of a device without curves.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.memory import trained_device_parameters
from d2ft_sched.model.workload import OPTIMIZER_STATES, Workload
from d2ft_sched.schedule.placement import Placement

BRANCH_FORWARD_PASSES = 8
"""Passes over ``[tokens, width]`` per block besides its norms: in both sub-layers the branch starts
from its bias, or zeros (1 write), the residual sum reads two and writes one."""

BRANCH_BACKWARD_PASSES = 8
"""In both sub-layers: sum of the two paths' gradients (2 reads, 1 write), zeros where no group
writes (1 write)."""

BIAS_BACKWARD_PASSES = 2
"""Output bias (1 read), in both sub-layers, whether anything runs or not; nothing where only
adapters train."""

IDLE_FORWARD_PASSES = 4
"""Per block without an operation: in both sub-layers the output bias is added (1 read, 1 write)."""

EMBEDDING_FORWARD_PASSES, EMBEDDING_BACKWARD_PASSES = 4, 3
"""Embedding and position, without the norm that there is besides; backward only if they train."""

NORM_FORWARD_PASSES = {"layer": 2, "rms": 7}
"""LayerNorm is one kernel (1 read, 1 write). RMS norms are run as operators of their own: square (1
read, 1 write), mean (1 read), product with its inverse root, and with the scale (1 read, 1 write
each)."""

NORM_BACKWARD_PASSES = {"layer": 3, "rms": 14}
"""LayerNorm: 2 reads, 1 write. RMS norms: scale (1 read, 1 write), the product's both factors (1
read, 1 write, and 2 reads, 1 write, 1 read), mean (1 write), square (2 reads, 1 write), their sum
(2 reads, 1 write)."""

RMS_SCALE_PASSES = 4
"""The gradient of an RMS norm's scale: 2 reads, 1 write, 1 read."""

RMS_CAST_PASSES = 4
"""Over a stream that is not in float32, in either direction, from it and back."""

ROTARY_PASSES = 10
"""Over queries and keys that are turned, in either direction: half of them negated and joined (2
reads, 2 writes), two products and their sum (4 reads, 2 writes)."""


@dataclass(frozen=True)
class TrunkBytes:
    """Bytes moved by the trunk, all blocks together, float ``[num_microbatches]``."""

    forward: np.ndarray
    backward: np.ndarray


def trunk_bytes_moved(workload: Workload, num_running: np.ndarray | None = None) -> TrunkBytes:
    """Norms, residuals, embedding and classifier of every micro-batch.

    Args:
        workload: the model and its micro-batches.
        num_running: blocks in which anything runs in the pass that a micro-batch is part of, int
            ``[num_microbatches]``; default all. The others have no norm to compute, but where it
            stands after the residual sum.
    """
    shape = workload.shape
    running: int | np.ndarray = shape.num_blocks
    if num_running is not None and shape.norm_first:
        running = num_running
    idle = shape.num_blocks - running
    stream, normed = workload.stream_bytes.astype(float), workload.norm_bytes.astype(float)
    image_elements = shape.embed_flops / (2 * shape.width)
    image = workload.samples * image_elements * workload.parameter_bytes
    trains, is_rms = workload.lora is None, shape.norm == "rms"
    norms = 2 * running + 1
    of_scale = RMS_SCALE_PASSES if trains and is_rms else 0
    casts = RMS_CAST_PASSES * norms * (is_rms and bool((normed > stream).any()))
    forward = BRANCH_FORWARD_PASSES * running + EMBEDDING_FORWARD_PASSES + casts
    backward = BRANCH_BACKWARD_PASSES * running + casts
    if shape.output_bias:
        forward = forward + IDLE_FORWARD_PASSES * idle
        backward = backward + BIAS_BACKWARD_PASSES * shape.num_blocks * trains
    if trains:
        backward = backward + EMBEDDING_BACKWARD_PASSES
    return TrunkBytes(
        stream * forward + normed * NORM_FORWARD_PASSES[shape.norm] * norms + image,
        stream * backward
        + normed * (NORM_BACKWARD_PASSES[shape.norm] + of_scale) * norms
        + image * trains,
    )


@dataclass(frozen=True)
class LaneBytes:
    """Bytes moved by lane groups, float arrays of one shape."""

    attention_forward: np.ndarray
    attention_backward: np.ndarray
    mlp_forward: np.ndarray
    mlp_backward: np.ndarray


def lane_bytes_of(
    workload: Workload,
    heads: np.ndarray,
    hidden: np.ndarray,
    tokens: np.ndarray,
    trains: np.ndarray | bool = True,
    recomputes: np.ndarray | bool = False,
) -> LaneBytes:
    """Bytes of groups of so many heads and hidden units on so many tokens; arrays that broadcast.

    Where they do not train, backward has dX only; where they recompute it has forward's map in and
    what follows once more.

    A group is one slice of the weights on one batch: whatever subnets and micro-batches it merges,
    it reads activations and weights once. So it moves less than its parts would apart, and the same
    however the model is cut.
    """
    shape = workload.shape
    rows, columns = heads * shape.head_rows, heads * shape.head_columns
    turned = heads * (shape.queries_per_head + 1) * shape.head_dim
    hidden_rows = hidden * shape.hidden_rows
    attention_activation = 1.0 * tokens * shape.width * (heads > 0)
    mlp_activation = 1.0 * tokens * shape.width * (hidden > 0)
    attention_weights = 1.0 * shape.width * (rows + columns) * (tokens > 0)
    mlp_weights = 1.0 * shape.width * (hidden_rows + hidden) * (tokens > 0)
    # forward: read x, read and write the result; backward: read the gradient once for dX and read
    # and write dX, read the gradient and x once for dW; weights are read once forward, once
    # backward, and dW read and written where they train. With adapters only factors do, which are
    # read and written beside the weights. Of channels and hidden units dW reads those of the result
    # and gradients of what was projected, and the bias these once more. What is turned or normed
    # between the products is read and written by every operator of its own.
    rank = 0 if workload.lora is None else workload.lora.rank
    trained = np.where(trains, 1.0, 0.0)
    passes = 1 + (2 * trained if workload.lora is None else 0 * trained)
    of_factors = 1 + 2 * trained
    attention_factors = attention_weights / shape.width * rank
    mlp_factors = mlp_weights / shape.width * rank
    turns = ROTARY_PASSES * int(shape.rotary)
    norms = NORM_FORWARD_PASSES["rms"] * int(shape.query_key_norm)
    norms_back = NORM_BACKWARD_PASSES["rms"] * int(shape.query_key_norm)
    gate, gate_back = (2, 4) if shape.gated_mlp else (0, 0)
    attention_again = np.where(recomputes, 1.0, 0.0) * (
        attention_activation
        + tokens * (2.0 * rows + columns)
        + (turns + norms) * tokens * turned
        + attention_weights * shape.head_rows / (shape.head_rows + shape.head_columns)
    )
    mlp_again = np.where(recomputes, 1.0, 0.0) * (
        mlp_activation
        + tokens * ((1.0 + gate) * hidden + 2.0 * hidden_rows)
        + mlp_weights * shape.hidden_rows / (shape.hidden_rows + 1)
    )
    elements = LaneBytes(
        attention_forward=3.0 * attention_activation
        + 2.0 * tokens * (rows + columns)
        + (turns + norms) * tokens * turned
        + attention_weights
        + attention_factors,
        attention_backward=(3 + 2 * trained) * attention_activation
        + tokens * ((4 + trained) * columns + (3 + (1 + shape.qkv_bias) * trained) * rows)
        + (turns + norms_back) * tokens * turned
        + passes * attention_weights
        + of_factors * attention_factors
        + attention_again,
        mlp_forward=3.0 * mlp_activation
        + tokens * ((2.0 + gate) * hidden + 2.0 * hidden_rows)
        + mlp_weights
        + mlp_factors,
        mlp_backward=(3 + 2 * trained) * mlp_activation
        + tokens
        * ((2 + gate_back + trained) * hidden + (3 + (1 + shape.mlp_bias) * trained) * hidden_rows)
        + passes * mlp_weights
        + of_factors * mlp_factors
        + mlp_again,
    )
    size = workload.element_bytes
    return LaneBytes(
        elements.attention_forward * size,
        elements.attention_backward * size,
        elements.mlp_forward * size,
        elements.mlp_backward * size,
    )


def shared_factor_bytes(
    workload: Workload,
    maps_in: int | np.ndarray,
    forward: np.ndarray,
    backward: np.ndarray,
    trained: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of one sub-layer's products with shared factors of adapters, forward and backward.

    Forward reads x for each map in, and reads and writes the result; backward reads the gradient
    and, for each map in, reads and writes dX; where factors train it reads the gradient once more
    and, for each map in, x. Where there are no adapters or no tokens nothing moves.

    Args:
        workload: the model, and what trains.
        maps_in: of the sub-layer, each with an A of its own.
        forward, backward, trained: tokens of each piece of work, as in
            `d2ft_sched.costs.shared_factors`.
    """
    rank = 0 if workload.lora is None else workload.lora.rank
    width, size = workload.shape.width, workload.element_bytes
    factors = (maps_in + 1.0) * rank * width
    product, stream = 2.0 * (maps_in + 1) * rank, 1.0 * width * (rank > 0)
    return (
        size * (((maps_in + 2) * stream + product) * forward + factors * (forward > 0)),
        size
        * (
            ((2 * maps_in + 1) * stream + product) * backward
            + ((maps_in + 1) * stream + product) * trained
            + factors * ((backward > 0) + 2.0 * (trained > 0))
        ),
    )


def optimizer_bytes_moved(
    workload: Workload, placement: Placement, trains: np.ndarray | None = None
) -> np.ndarray:
    """Bytes of one parameter update, float ``[num_devices]``.

    It reads gradients, and reads and writes parameters that train and optimizer state; those of
    subnets that rest are not touched.

    Args:
        workload: the model, what trains, and the optimizer.
        placement: which device holds what.
        trains: which subnets do in the step, bool ``[num_subnets]``; default all.
    """
    per_parameter = (3 + 2 * OPTIMIZER_STATES[workload.optimizer]) * workload.parameter_bytes
    return trained_device_parameters(workload, placement, trains) * per_parameter
