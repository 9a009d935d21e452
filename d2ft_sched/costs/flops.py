"""FLOPs of subnets and trunk in closed form (a multiply-add counts 2)."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.input_gradients import (
    executed_schedule,
    hands_gradient_on,
    needs_input_gradient,
)
from d2ft_sched.costs.shared_factors import shared_factor_tokens
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.waves import running_microbatches

FUSED_ATTENTION_BACKWARD = 2.5
"""Backward over forward FLOPs of fused attention: it recomputes the scores, so that five matrix
products stand against two (FlashAttention, arXiv 2205.14135)."""


@dataclass(frozen=True)
class SublayerFlops:
    """FLOPs of one sub-layer (attention or MLP), float arrays of one shape.

    The forward pass, the gradient with respect to the input (dX, the recomputation of fused
    attention included) and the gradient with respect to the weights (dW).
    """

    forward: np.ndarray
    backward_input: np.ndarray
    backward_weight: np.ndarray

    @property
    def backward(self) -> np.ndarray:
        return self.backward_input + self.backward_weight

    def __add__(self, other: "SublayerFlops") -> "SublayerFlops":
        return SublayerFlops(
            self.forward + other.forward,
            self.backward_input + other.backward_input,
            self.backward_weight + other.backward_weight,
        )


def attention_flops(workload: Workload, placement: Placement | None = None) -> SublayerFlops:
    """QKV, scores and values, output projection, ``[num_subnets, num_microbatches]``.

    Additive: the products with factors of adapters that a block shares are charged to its heads in
    equal parts, so that the sum over a dense step on one device is exact. A placement counts for
    who computes forward again.
    """
    heads, tokens = workload.partition.heads[:, None], workload.tokens[None, :]
    needed = hands_gradient_on(workload, workload.partition.block)[:, None]
    again = subnets_recompute(workload, placement)[:, None]
    own = attention_flops_of(workload, heads, tokens, needed, again)
    shared = heads / workload.shape.num_heads * tokens
    maps_in, _ = workload.shape.num_maps_in
    return own + shared_factor_flops(workload, maps_in, shared, shared, shared * needed, shared)


def mlp_flops(workload: Workload, placement: Placement | None = None) -> SublayerFlops:
    """Both linear layers of the hidden units, ``[num_subnets, num_microbatches]``; additive as
    `attention_flops`."""
    hidden, tokens = workload.partition.hidden[:, None], workload.tokens[None, :]
    again = subnets_recompute(workload, placement)[:, None]
    own = mlp_flops_of(workload, hidden, tokens, recomputes=again)
    shared = hidden / workload.shape.mlp_hidden * tokens
    _, maps_in = workload.shape.num_maps_in
    return own + shared_factor_flops(workload, maps_in, shared, shared, shared, shared)


def subnets_recompute(workload: Workload, placement: Placement | None) -> np.ndarray:
    """Whether the device of each subnet computes forward again in backward, bool
    ``[num_subnets]``; without a placement none does."""
    if placement is None:
        return np.zeros(workload.num_subnets, dtype=bool)
    return placement.recomputes[np.array(placement.subnet_device)]


def attention_flops_of(
    workload: Workload,
    heads: np.ndarray,
    tokens: np.ndarray,
    needs_dx: np.ndarray | bool = True,
    recomputes: np.ndarray | bool = False,
) -> SublayerFlops:
    """Attention of so many heads on so many tokens, arrays that broadcast.

    Where it is causal a token sees half of the others on average; fused kernels compute no more.
    Without the products with factors of adapters that heads share, see `shared_factor_flops`.

    Args:
        workload: the model, and what trains.
        heads: number of heads.
        tokens: number of tokens.
        needs_dx: whether the gradient goes on to the sub-layer's input.
        recomputes: whether forward is computed again for dX and dW, but for the map out, whose
            result they do not need.
    """
    shape = workload.shape
    columns = heads * shape.head_columns
    seen = (shape.num_tokens + 1) / 2 if shape.causal else shape.num_tokens
    attention = 4.0 * tokens * seen * columns
    rows = heads * shape.head_rows
    linears = _linear_flops(workload, tokens, rows, columns, needs_dx, recomputes)
    core = SublayerFlops(
        attention,
        (FUSED_ATTENTION_BACKWARD + np.where(recomputes, 1.0, 0.0)) * attention,
        np.zeros_like(attention),
    )
    return linears + core


def mlp_flops_of(
    workload: Workload,
    hidden: np.ndarray,
    tokens: np.ndarray,
    needs_dx: np.ndarray | bool = True,
    recomputes: np.ndarray | bool = False,
) -> SublayerFlops:
    """The MLP of so many hidden units on so many tokens; as `attention_flops_of`."""
    rows = hidden * workload.shape.hidden_rows
    return _linear_flops(workload, tokens, rows, hidden, needs_dx, recomputes)


def _linear_flops(
    workload: Workload,
    tokens: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    needs_dx: np.ndarray | bool,
    recomputes: np.ndarray | bool,
) -> SublayerFlops:
    """A map to so many rows and one from so many columns, with their own part of adapters."""
    to_rows = 2.0 * tokens * workload.shape.width * rows
    from_columns = 2.0 * tokens * workload.shape.width * columns
    backward_input = from_columns + np.where(needs_dx, to_rows, 0.0)
    backward_input = backward_input + np.where(recomputes, to_rows, 0.0)
    if workload.lora is None:
        return SublayerFlops(to_rows + from_columns, backward_input, to_rows + from_columns)
    adapters = 2.0 * tokens * workload.lora.rank * (rows + columns)
    backward_input += np.where(recomputes, 2.0 * tokens * workload.lora.rank * rows, 0.0)
    return SublayerFlops(to_rows + from_columns + adapters, backward_input + adapters, adapters)


def shared_factor_flops(
    workload: Workload,
    maps_in: int | np.ndarray,
    forward: np.ndarray,
    backward: np.ndarray,
    input_gradient: np.ndarray,
    trained: np.ndarray,
) -> SublayerFlops:
    """Products with the factors of adapters that a block shares; nothing without adapters.

    Args:
        workload: the model, and what trains.
        maps_in: of the sub-layer, each with an A of its own.
        forward, backward, input_gradient, trained: tokens as in
            `d2ft_sched.costs.shared_factors`.
    """
    rank = 0 if workload.lora is None else workload.lora.rank
    one = 2.0 * workload.shape.width * rank
    return SublayerFlops(
        one * (maps_in + 1) * forward,
        one * (backward + maps_in * input_gradient),
        one * (maps_in + 1) * trained,
    )


def operation_flops(workload: Workload, placement: Placement | None = None) -> np.ndarray:
    """FLOPs of every operation, float ``[num_subnets, num_microbatches, 4]``; additive.

    REST is charged as if all that lies before it trained. A placement counts for who computes
    forward again.
    """
    flops = np.zeros((workload.num_subnets, workload.num_microbatches, len(Operation)))
    before_attention = hands_gradient_on(workload, workload.partition.block)[:, None]
    for sublayer, needed in (
        (attention_flops(workload, placement), before_attention),
        (mlp_flops(workload, placement), True),
    ):
        flops[..., Operation.FORWARD_ONLY] += sublayer.forward
        flops[..., Operation.REST] += sublayer.forward + sublayer.backward_input * needed
        flops[..., Operation.FULL] += sublayer.forward + sublayer.backward
    return flops


@dataclass(frozen=True)
class TrunkFlops:
    """FLOPs of embedding and classifier, or head over a vocabulary, per micro-batch, float
    ``[num_microbatches]``."""

    forward: np.ndarray
    backward: np.ndarray


def trunk_flops(workload: Workload) -> TrunkFlops:
    """Embedding (its backward has dW only, and none where it is frozen) and classifier (dX, and dW
    where it trains)."""
    shape, samples = workload.shape, workload.samples.astype(float)
    embed_backward = shape.embed_flops if workload.lora is None else 0
    return TrunkFlops(
        forward=samples * (shape.embed_flops + shape.classifier_flops),
        backward=samples * (embed_backward + (1 + workload.head_trains) * shape.classifier_flops),
    )


def step_flops(
    workload: Workload, schedule: np.ndarray, placement: Placement | None = None
) -> float:
    """FLOPs of one step under a schedule, trunk included.

    Exact, but for adapters in a wave that trains no subnet at all: it does not need the dX of the
    classifier, which is counted.

    Args:
        workload: model, partition and mini-batch.
        schedule: int ``[num_subnets, num_microbatches]``.
        placement: counts with adapters, whose shared factors every device multiplies with, and for
            who computes forward again; default one device that does not.
    """
    partition, trunk = workload.partition, trunk_flops(workload)
    schedule = executed_schedule(workload, schedule)
    total = (trunk.forward + trunk.backward)[running_microbatches(schedule)].sum()
    tokens = workload.tokens
    runs = np.einsum("sm,m->s", schedule != Operation.SHORTCUT, tokens)
    is_full, rests = schedule == Operation.FULL, schedule == Operation.REST
    needs_dx = None if workload.lora is None else needs_input_gradient(workload, schedule)
    again = subnets_recompute(workload, placement)
    for sublayer, (flops_of, units) in enumerate(
        ((attention_flops_of, partition.heads), (mlp_flops_of, partition.hidden))
    ):
        total += flops_of(workload, units, runs).forward.sum()
        needed = np.array(True)
        if needs_dx is not None:
            needed = needs_dx[:, sublayer][partition.block]
        for cells, needed_there in ((is_full & needed, True), (is_full & ~needed, False)):
            trained = np.einsum("sm,m->s", cells, tokens)
            total += flops_of(workload, units, trained, needed_there, again).backward.sum()
        passed = np.einsum("sm,m->s", rests & needed, tokens)
        total += flops_of(workload, units, passed, True, again).backward_input.sum()
    if workload.lora is not None:
        shared = shared_factor_tokens(workload, schedule, placement)
        flops = shared_factor_flops(
            workload,
            np.array(workload.shape.num_maps_in)[:, None],
            shared.forward,
            shared.backward,
            shared.input_gradient,
            shared.trained,
        )
        total += flops.forward.sum() + flops.backward.sum()
    return float(total)
