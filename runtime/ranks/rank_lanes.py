"""The lanes of one sub-layer on a rank, with all parameters in training or with adapters."""

import torch
from torch import Tensor

from runtime.families.sublayer import Sublayer
from runtime.lanes.adapted_lanes import adapted_lanes_backward
from runtime.lanes.adapters import AdapterSums
from runtime.lanes.passes import lanes_backward, lanes_forward
from runtime.lanes.products import without_autocast
from runtime.lanes.slices import SublayerLanes
from runtime.ranks.rank_trunk import Kept
from runtime.ranks.step_gradients import StepGradients


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
    """Add the lanes' results to `out`, ``[T, D]``; `kept` gets what they need for backward.

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
            x, sublayer.linears(), sublayer.core, lanes, num_tokens, key_mask, out, sums
        )
    if lanes.full:
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
        lanes: of the subnets held, some of which are FULL.
        kept: from forward.
        gradients: of the step.
    """
    assert kept.lane_input is not None
    x, adapters = kept.lane_input, sublayer.adapters()
    if adapters is not None:
        assert kept.sums is not None
        own = adapters.gradient_buffers()
        with without_autocast(x):
            grad_x = adapted_lanes_backward(
                grad_branch,
                x,
                sublayer.linears(),
                adapters,
                kept.graphs,
                kept.sums,
                lanes,
                own,
                needs_dx=bool(lanes.tokens_with_dx),
            )
        sublayer.add_adapter_gradients(own)
        return grad_x
    made, overwrite = gradients.of_lanes(sublayer, lanes)
    with without_autocast(x):
        return lanes_backward(
            grad_branch, x, sublayer.linears(), kept.graphs, lanes, made, overwrite=overwrite
        )
