"""Bytes that lanes read and write, in closed form; counted as in
`d2ft_sched.costs.memory_traffic`."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.model.workload import Workload

NORM_FORWARD_PASSES = {"layer": 2, "rms": 7}
"""LayerNorm is one kernel (1 read, 1 write). RMS norms are run as operators of their own: square (1
read, 1 write), mean (1 read), product with its inverse root, and with the scale (1 read, 1 write
each)."""

NORM_BACKWARD_PASSES = {"layer": 3, "rms": 14}
"""LayerNorm: 2 reads, 1 write. RMS norms: scale (1 read, 1 write), the product's both factors (1
read, 1 write, and 2 reads, 1 write, 1 read), mean (1 write), square (2 reads, 1 write), their sum
(2 reads, 1 write)."""

ROTARY_PASSES = 10
"""Over queries and keys that are turned, in either direction: half of them negated and joined (2
reads, 2 writes), two products and their sum (4 reads, 2 writes)."""


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
    trained_heads: np.ndarray | int | None = None,
    trained_hidden: np.ndarray | int | None = None,
    recomputes: np.ndarray | bool = False,
) -> LaneBytes:
    """Bytes of groups of so many heads and hidden units on so many tokens; arrays that broadcast.

    Some of them train, default all; of others backward has dX only. Where they recompute it has
    forward's map in and what follows once more.

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
    # backward, and dW read and written where they train, zeros written beside it. With adapters
    # only factors do, which are read and written beside the weights. Of channels and hidden units
    # dW reads those of the result and gradients of what was projected, and the bias these once
    # more. What is turned or normed between the products is read and written by every operator of
    # its own. Where some hidden units rest, results of the others are copied to be kept.
    rank = 0 if workload.lora is None else workload.lora.rank
    heads_trained = heads if trained_heads is None else np.asarray(trained_heads)
    hidden_trained = hidden if trained_hidden is None else np.asarray(trained_hidden)
    attention_trains, mlp_trains = 1.0 * (heads_trained > 0), 1.0 * (hidden_trained > 0)
    rows_trained, columns_trained = (
        heads_trained * of_head for of_head in (shape.head_rows, shape.head_columns)
    )
    hidden_rows_trained = hidden_trained * shape.hidden_rows
    dw = 1.0 * shape.width * (tokens > 0) * (workload.lora is None)
    copied = 2.0 * hidden_trained * (hidden_trained < hidden)
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
        attention_backward=(3 + 2 * attention_trains) * attention_activation
        + tokens * (4 * columns + columns_trained + 3 * rows + (1 + shape.qkv_bias) * rows_trained)
        + (turns + norms_back) * tokens * turned
        + attention_weights
        + dw * (attention_trains * (rows + columns) + rows_trained + columns_trained)
        + (1 + 2 * attention_trains) * attention_factors
        + attention_again,
        mlp_forward=3.0 * mlp_activation
        + tokens * ((2.0 + gate) * hidden + 2.0 * hidden_rows + copied)
        + mlp_weights
        + mlp_factors,
        mlp_backward=(3 + 2 * mlp_trains) * mlp_activation
        + tokens
        * (
            (2 + gate_back) * hidden
            + hidden_trained
            + 3 * hidden_rows
            + (1 + shape.mlp_bias) * hidden_rows_trained
        )
        + mlp_weights
        + dw * (mlp_trains * (hidden_rows + hidden) + hidden_rows_trained + hidden_trained)
        + (1 + 2 * mlp_trains) * mlp_factors
        + mlp_again,
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
    of_head, of_hidden = shape.head_rows + shape.head_columns, shape.hidden_rows + 1.0
    weights = np.stack([of_head * heads, of_hidden * hidden]) * shape.width * is_copied
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
    results = np.stack([heads * workload.shape.head_columns, hidden]) * tokens * is_masked
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
