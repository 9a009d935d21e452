"""What stands between the linear maps of a sub-layer, and its small autograd graph.

Shapes: N tokens of a sample; a lane group has b samples, T = b N tokens, r rows of a map in and c
columns of the map out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

Core = Callable[[Sequence[Tensor], Tensor | None], Tensor]
"""From what each map in makes, ``[b, N, r]``, and which tokens may be looked at, ``[b, N]`` or None
for all, to ``[b, N, c]``: `attention_core`, an `elementwise_core`, or one of a family's own."""


def attention_core(
    projected: Sequence[Tensor],
    key_mask: Tensor | None,
    *,
    head_dim: int,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention of queries, keys and values, ``[b, N, heads * head_dim]`` each, of three
    maps or stacked by one.

    `key_mask` is bool; `dropout` is the share of the weights of attention that is drawn to be zero.
    """
    parts = projected if len(projected) > 1 else projected[0].chunk(3, -1)
    query, key, value = (part.unflatten(-1, (-1, head_dim)).transpose(1, 2) for part in parts)
    mask = None if key_mask is None else key_mask[:, None, None, :]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


def elementwise_core(activation: Callable[[Tensor], Tensor]) -> Core:
    """An activation function as a core."""
    return lambda projected, key_mask: activation(projected[0])


@dataclass(frozen=True)
class CoreGraph:
    """``core(projected)`` of a group that runs backward.

    Attributes:
        num_samples: b.
        entries: where `projected` enters the graph, which keeps of it what backward reads alone.
        end: of the graph.
        kept_result: ``[T, c]``, without graph; None where backward does not read it.
    """

    num_samples: int
    entries: tuple[GradientEdge, ...]
    end: GradientEdge
    kept_result: Tensor | None

    @property
    def result(self) -> Tensor:
        assert self.kept_result is not None
        return self.kept_result

    def backward(
        self, grad_result: Tensor, parameters: Sequence[Tensor] = ()
    ) -> tuple[list[Tensor], list[Tensor]]:
        """From the gradient of the result, ``[T, c]``, to those of `projected`, ``[T, r]`` each,
        and of the core's `parameters`."""
        grad_result = grad_result.unflatten(0, (self.num_samples, -1))
        wanted: Any = (*self.entries, *parameters)
        made = torch.autograd.grad((self.end,), wanted, (grad_result,))
        num_maps = len(self.entries)
        return [grad.flatten(0, 1) for grad in made[:num_maps]], list(made[num_maps:])


def run_core(
    projected: Sequence[Tensor],
    key_mask: Tensor | None,
    core: Core,
    *,
    keep_graph: bool,
    keep_result: bool,
) -> tuple[Tensor, CoreGraph | None]:
    """The result, ``[T, c]`` without graph, and what backward needs if `keep_graph`.

    Args:
        projected: what each map in makes, ``[b, N, r]``, without graph.
        key_mask: of the group's samples.
        core: what to run.
        keep_graph, keep_result: whether backward needs the graph, and the result itself.
    """
    if not keep_graph:
        return core(projected, key_mask).flatten(0, 1), None
    with torch.enable_grad():
        anchor = torch.empty(0, requires_grad=True)
        entered = [_Entry.apply(part, anchor) for part in projected]
        result = core(entered, key_mask)
    own_result = result.detach().flatten(0, 1)
    entries = tuple(get_gradient_edge(part) for part in entered)
    kept = own_result if keep_result else None
    return own_result, CoreGraph(len(result), entries, get_gradient_edge(result), kept)


class _Entry(torch.autograd.Function):
    """The same values at the beginning of a graph. A leaf would stay in memory as long as the
    graph; of these stays what the graph reads."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        return None, None
