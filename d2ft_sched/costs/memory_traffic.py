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

TRUNK_FORWARD_PASSES = 12
"""Passes over ``[tokens, width]`` per block: in both sub-layers the norm reads and writes, the
branch starts from its bias (1 write), the residual sum reads two and writes one."""

TRUNK_BACKWARD_PASSES = 16
"""In both sub-layers: norm (2 reads, 1 write), sum of the two paths' gradients (2 reads, 1 write),
output bias (1 read), zeros where no group writes (1 write)."""

IDLE_FORWARD_PASSES = 4
"""Per block without an operation: in both sub-layers the output bias is added (1 read, 1 write)."""

IDLE_BACKWARD_PASSES = 2
"""There: output bias (1 read), in both sub-layers."""

EMBEDDING_PASSES = 6
"""Embedding, position and last norm, in either direction."""

NORM_PASSES = 3
"""The last norm's backward (2 reads, 1 write), all that is left of them where only adapters train;
nor is the gradient read for output biases then."""


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
    stream = workload.stream_bytes.astype(float)
    image_elements = shape.embed_flops / (2 * shape.width)
    image = workload.samples * image_elements * workload.parameter_bytes
    forward = TRUNK_FORWARD_PASSES * running + IDLE_FORWARD_PASSES * idle + EMBEDDING_PASSES
    if workload.lora is not None:
        backward = (TRUNK_BACKWARD_PASSES - 2) * running + NORM_PASSES
        return TrunkBytes(stream * forward + image, stream * backward)
    backward = TRUNK_BACKWARD_PASSES * running + IDLE_BACKWARD_PASSES * idle + EMBEDDING_PASSES
    return TrunkBytes(stream * forward + image, stream * backward + image)


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
) -> LaneBytes:
    """Bytes of groups of so many heads and hidden units on so many tokens; arrays that broadcast.

    Where they do not train, backward has dX only.

    A group is one slice of the weights on one batch: whatever subnets and micro-batches it merges,
    it reads activations and weights once. So it moves less than its parts would apart, and the same
    however the model is cut.
    """
    shape = workload.shape
    channels = heads * shape.head_dim
    attention_activation = 1.0 * tokens * shape.width * (heads > 0)
    mlp_activation = 1.0 * tokens * shape.width * (hidden > 0)
    attention_weights = 4.0 * shape.width * channels * (tokens > 0)
    mlp_weights = 2.0 * shape.width * hidden * (tokens > 0)
    # forward: read x, read and write the result; backward: read the gradient once for dX and read
    # and write dX, read the gradient and x once for dW; weights are read once forward, once
    # backward, and dW read and written where they train. With adapters only factors do, which are
    # read and written beside the weights. Of channels and hidden units dW and the bias read those
    # of the result and, twice, gradients of what was projected.
    rank = 0 if workload.lora is None else workload.lora.rank
    trained = np.where(trains, 1.0, 0.0)
    passes = 1 + (2 * trained if workload.lora is None else 0 * trained)
    of_factors = 1 + 2 * trained
    attention_factors = attention_weights / shape.width * rank
    mlp_factors = mlp_weights / shape.width * rank
    elements = LaneBytes(
        attention_forward=3.0 * attention_activation
        + 8.0 * tokens * channels
        + attention_weights
        + attention_factors,
        attention_backward=(3 + 2 * trained) * attention_activation
        + (13 + 7 * trained) * tokens * channels
        + passes * attention_weights
        + of_factors * attention_factors,
        mlp_forward=3.0 * mlp_activation + 4.0 * tokens * hidden + mlp_weights + mlp_factors,
        mlp_backward=(3 + 2 * trained) * mlp_activation
        + (5 + 3 * trained) * tokens * hidden
        + passes * mlp_weights
        + of_factors * mlp_factors,
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
