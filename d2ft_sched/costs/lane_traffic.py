"""Bytes that lanes read and write, in closed form; counted as in
`d2ft_sched.costs.memory_traffic`."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.model.workload import Workload


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


def copied_bytes_of(
    workload: Workload,
    heads: np.ndarray,
    hidden: np.ndarray,
    trains: np.ndarray,
    is_copied: np.ndarray,
) -> np.ndarray:
    """Bytes moved to bring together the weights of groups that are no view of what a device holds.

    They are read and written before forward and again before backward; where they train, dW is
    made apart, and read to be added to what is read and written.

    Args:
        workload: the model, and what trains.
        heads, hidden: of each group.
        trains: whether its weights do.
        is_copied: attention's, then MLP's, bool ``[2 sub-layers, num_groups]``.

    Returns:
        float ``[2 directions, 2 sub-layers, num_groups]``.
    """
    shape = workload.shape
    weights = np.stack([4.0 * shape.head_dim * heads, 2.0 * hidden]) * shape.width * is_copied
    if workload.lora is not None:
        trains = np.zeros_like(trains)
    return np.stack([2 * weights, (2 + 4.0 * trains) * weights]) * workload.element_bytes


def mask_bytes_of(
    workload: Workload,
    heads: np.ndarray,
    hidden: np.ndarray,
    tokens: np.ndarray,
    is_masked: np.ndarray,
) -> np.ndarray:
    """Bytes moved to mask results in forward, and them and their gradients in backward; float
    ``[2 directions, 2 sub-layers, num_groups]``."""
    results = np.stack([heads * workload.shape.head_dim, hidden]) * tokens * is_masked
    return np.stack([2.0 * results, 4.0 * results]) * workload.element_bytes


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
