"""The lanes of one sub-layer on a rank, with all parameters in training or with adapters."""

import torch
from torch import Tensor

from runtime.families.sublayer import Sublayer
from runtime.lanes.adapted_lanes import TrainedAdapters, adapted_lanes_backward
from runtime.lanes.adapters import AdapterSums
from runtime.lanes.passes import Trained, lanes_backward, lanes_forward
from runtime.lanes.products import without_autocast
from runtime.lanes.slices import SublayerLanes
from runtime.ranks.step_gradients import StepGradients
from runtime.ranks.wave.rank_trunk import Kept


@torch.no_grad()
def rank_lanes_forward(
    x: Tensor,
    sublayer: Sublayer,
    lanes: SublayerLanes,
    num_tokens: int,
    key_mask: Tensor | None,
    out: Tensor,
    kept: Kept,
) -> None:
    """Add the lanes' results to `out`, ``[T, D]``, or put them there where ``lanes.begins``;
    `kept` gets what they need for backward.

    Args:
        x: what the lanes see, ``[T, D]``.
        sublayer: what is held of it.
        lanes: of the subnets held.
        num_tokens: of a sample.
        key_mask: which tokens attention may look at, bool ``[B, N]``; None for all.
        out: see above.
        kept: see above.
    """
    adapters = sublayer.adapters()
    with without_autocast(x):
        sums = None if adapters is None else AdapterSums(x, adapters, lanes)
        kept.graphs = lanes_forward(
            x, sublayer.linears(), sublayer.core, lanes, num_tokens, key_mask, out, None, sums
        )
    if lanes.train:
        kept.sums = sums


@torch.no_grad()
def rank_lanes_backward(
    grad_branch: Tensor,
    sublayer: Sublayer,
    lanes: SublayerLanes,
    kept: Kept,
    gradients: StepGradients,
) -> Tensor | None:
    """The gradient of what the lanes saw, ``[T, D]``; None for zeros.

    Args:
        grad_branch: gradient of their results, ``[T, D]``.
        sublayer: what is held of it; gradients of what trains are added to its own.
        lanes: of the subnets held, some of which run backward.
        kept: from forward.
        gradients: of the step.
    """
    x, adapters = kept.lane_input, sublayer.adapters()
    if adapters is not None:
        factors = None
        if x is not None and kept.sums is not None:
            factors = TrainedAdapters(x, kept.sums, adapters.gradient_buffers())
        with without_autocast(grad_branch):
            grad_x = adapted_lanes_backward(
                grad_branch,
                sublayer.linears(),
                adapters,
                kept.graphs,
                lanes,
                factors,
                needs_dx=bool(lanes.tokens_with_dx),
            )
        if factors is not None:
            sublayer.add_adapter_gradients(factors.gradients)
        return grad_x
    weights = None if x is None else Trained(x, *gradients.of_lanes(sublayer, lanes))
    with without_autocast(grad_branch):
        return lanes_backward(grad_branch, sublayer.linears(), kept.graphs, lanes, weights)
