"""FLOPs of subnets and trunk in closed form (a multiply-add counts 2)."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.model_shape import ModelShape
from d2ft_sched.operations import NUM_OPERATIONS, Operation
from d2ft_sched.workload import Workload

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


def attention_flops(workload: Workload) -> SublayerFlops:
    """QKV, scores and values, output projection, ``[num_subnets, num_microbatches]``."""
    return attention_flops_of(
        workload.shape, workload.partition.heads[:, None], workload.tokens[None, :]
    )


def mlp_flops(workload: Workload) -> SublayerFlops:
    """Both linear layers of the hidden units, ``[num_subnets, num_microbatches]``."""
    return mlp_flops_of(workload.shape, workload.partition.hidden[:, None], workload.tokens[None])


def attention_flops_of(shape: ModelShape, heads: np.ndarray, tokens: np.ndarray) -> SublayerFlops:
    """Attention of so many heads on so many tokens, arrays that broadcast."""
    head_width = heads * shape.head_dim
    linear = 8.0 * tokens * shape.width * head_width
    attention = 4.0 * tokens * shape.num_tokens * head_width
    return SublayerFlops(linear + attention, linear + FUSED_ATTENTION_BACKWARD * attention, linear)


def mlp_flops_of(shape: ModelShape, hidden: np.ndarray, tokens: np.ndarray) -> SublayerFlops:
    """The MLP of so many hidden units on so many tokens, arrays that broadcast."""
    linear = 4.0 * tokens * shape.width * hidden
    return SublayerFlops(linear, linear, linear)


def operation_flops(workload: Workload) -> np.ndarray:
    """FLOPs of every operation, float ``[num_subnets, num_microbatches, 3]``."""
    flops = np.zeros((workload.num_subnets, workload.num_microbatches, NUM_OPERATIONS))
    for sublayer in (attention_flops(workload), mlp_flops(workload)):
        flops[..., Operation.FORWARD_ONLY] += sublayer.forward
        flops[..., Operation.FULL] += sublayer.forward + sublayer.backward
    return flops


@dataclass(frozen=True)
class TrunkFlops:
    """FLOPs of embedding and classifier per micro-batch, float ``[num_microbatches]``."""

    forward: np.ndarray
    backward: np.ndarray


def trunk_flops(workload: Workload) -> TrunkFlops:
    """Embedding (its backward has dW only) and classifier (dX and dW)."""
    shape, samples = workload.shape, workload.samples.astype(float)
    return TrunkFlops(
        forward=samples * (shape.embed_flops + shape.classifier_flops),
        backward=samples * (shape.embed_flops + 2 * shape.classifier_flops),
    )


def step_flops(workload: Workload, schedule: np.ndarray) -> float:
    """FLOPs of one step under a schedule, trunk included."""
    shape, partition, trunk = workload.shape, workload.partition, trunk_flops(workload)
    total = trunk.forward.sum() + trunk.backward.sum()
    for lane in (Operation.FULL, Operation.FORWARD_ONLY):
        tokens = np.einsum("sm,m->s", schedule == lane, workload.tokens)
        for flops in (
            attention_flops_of(shape, partition.heads, tokens),
            mlp_flops_of(shape, partition.hidden, tokens),
        ):
            total += flops.forward.sum()
            if lane == Operation.FULL:
                total += flops.backward.sum()
    return float(total)
