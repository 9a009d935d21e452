"""What an owner of samples computes around a sub-layer's lanes: norm, LayerScale, residual sum.

Shapes: B samples owned, N tokens, D width.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from runtime.families.sublayer import Sublayer
from runtime.lanes.adapters import AdapterSums
from runtime.lanes.passes import Graph


@dataclass
class Kept:
    """What a sub-layer keeps for backward.

    Attributes:
        norm_input: what the norm sees, a leaf ``[B, N, D]``; None if its gradient is not needed.
        norm_graph: where the graph of the norm's result begins; not the result, which would stay
            beside the lanes' input wherever that has samples of others, too.
        lane_input: what the lanes saw, ``[T, D]``, owned before received, if any are FULL.
        graphs: of the cores of groups that run backward.
        sums: what adapters need where lanes have them.
        branch: sum of all ranks' results ``[B N, D]`` where LayerScale needs it.
    """

    norm_input: Tensor | None = None
    norm_graph: GradientEdge | None = None
    lane_input: Tensor | None = None
    graphs: list[Graph] = field(default_factory=list)
    sums: AdapterSums | None = None
    branch: Tensor | None = None


@torch.no_grad()
def add_branch(stream: Tensor, branch: Tensor | None, sublayer: Sublayer) -> Tensor:
    """``stream + scale * (branch + bias)``; the branch is ``[B N, D]`` or None for zeros."""
    delta: Tensor | None = sublayer.bias_out
    if branch is not None:
        branch = branch.view_as(stream)
        delta = branch if delta is None else branch + delta
    if delta is None:
        return stream
    return stream + (delta if sublayer.scale is None else delta * sublayer.scale)


@torch.no_grad()
def add_branch_gradients(grad_stream: Tensor, branch: Tensor | None, sublayer: Sublayer) -> None:
    """Add to the gradients of bias and LayerScale; `grad_stream` is ``[B N, D]``."""
    bias, scale = sublayer.bias_out, sublayer.scale
    total = grad_stream.sum(0)
    if scale is not None:
        if branch is not None:
            gradient_of(scale).add_((grad_stream * branch).sum(0))
        if bias is not None:
            gradient_of(scale).addcmul_(total, bias)
    if bias is not None:
        gradient_of(bias).add_(total if scale is None else total * scale)


@torch.no_grad()
def into_branch(grad_stream: Tensor, sublayer: Sublayer) -> Tensor:
    """The gradient of the branch from that of the stream, both ``[B N, D]``."""
    return grad_stream if sublayer.scale is None else grad_stream * sublayer.scale


def through_norm(kept: Kept, grad: Tensor) -> Tensor:
    """The gradient of the norm's input from that of its result; adds those of its parameters."""
    assert kept.norm_graph is not None
    assert kept.norm_input is not None
    torch.autograd.backward(kept.norm_graph, grad)
    return gradient_of(kept.norm_input)


def gradient_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad
