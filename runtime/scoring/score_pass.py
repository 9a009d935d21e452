"""One pass over samples that keeps what scores of subnets are computed from.

Gradients are those of the sum of the samples' losses with respect to activations, so that each
sample's own gradient can be told apart; no weight gradient is computed.
Shapes: B samples, N tokens, D width, H heads of size d, M hidden units.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from runtime.families.known_families import family_of
from runtime.families.low_rank import LowRank, low_rank_of


@dataclass(frozen=True)
class LinearTrace:
    """What a linear map saw.

    Attributes:
        x: input ``[B, N, in]``.
        grad_out: gradient of the losses with respect to the output, ``[B, N, out]``; None after a
            pass without backward.
        grad_x: the same with respect to the input, where it was asked for.
        has_bias: whether a bias was added.
        adapter: what trains in place of the map itself, if anything does.
    """

    x: Tensor
    grad_out: Tensor | None = None
    grad_x: Tensor | None = None
    has_bias: bool = True
    adapter: LowRank | None = None

    @cached_property
    def trained_rows(self) -> "LinearTrace":
        """What the parameters of the outputs saw that train: the map's own, or B of an adapter."""
        if self.adapter is None:
            return self
        low = self.adapter.scale * (self.x @ self.adapter.down.detach().t())
        return LinearTrace(low, self.grad_out, has_bias=False)

    @cached_property
    def trained_columns(self) -> "LinearTrace":
        """What the parameters of the inputs saw that train: the map's own, or A of an adapter."""
        if self.adapter is None or self.grad_out is None:
            return self
        low = self.adapter.scale * (self.grad_out @ self.adapter.up.detach())
        return LinearTrace(self.x, low, has_bias=False)

    @cached_property
    def gram_x(self) -> Tensor:
        """Products of every two tokens' inputs, ``[B, N, N]``."""
        return self.x @ self.x.mT

    @cached_property
    def gram_out(self) -> Tensor:
        """Products of every two tokens' output gradients, ``[B, N, N]``."""
        assert self.grad_out is not None
        return self.grad_out @ self.grad_out.mT


@dataclass(frozen=True)
class BlockTrace:
    """The linear maps of a block; several may stand side by side into heads and hidden units."""

    heads_in: tuple[LinearTrace, ...]
    heads_out: LinearTrace
    hidden_in: tuple[LinearTrace, ...]
    hidden_out: LinearTrace


def trace_blocks(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, backward: bool
) -> list[BlockTrace]:
    """Run the model once in evaluation mode; its gradients stay as they are.

    Args:
        model: one that `runtime.models.build.check_supported` accepts.
        inputs: as the model takes them, ``[B, ...]``.
        labels: int64 ``[B]``.
        backward: whether gradients are needed, too.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.set_grad_enabled(backward), _recorded(model) as records:
            family = family_of(model)
            losses = family.loss(model, family.whole_features(model, inputs), labels)
            if not backward:
                return _traces(records, {})
            wanted = _wanted(records)
            grads = torch.autograd.grad(losses, wanted)
            return _traces(records, dict(zip(map(id, wanted), grads, strict=True)))
    finally:
        model.train(was_training)


_Seen = tuple[Tensor, Tensor, nn.Linear]
"""Input and output of a linear map, and the map."""

_Records = list[dict[str, list[_Seen]]]
"""Of every block, by the names of `BlockTrace`: what the maps that stand side by side saw."""


@contextmanager
def _recorded(model: nn.Module) -> Iterator[_Records]:
    """Input and output of the linear maps of every block, filled as the model runs."""
    records: _Records = []
    with ExitStack() as hooks:
        for attention, mlp in family_of(model).blocks(model):
            records.append({})
            for name, linears in (
                ("heads_in", attention.maps_in),
                ("heads_out", (attention.map_out,)),
                ("hidden_in", mlp.maps_in),
                ("hidden_out", (mlp.map_out,)),
            ):
                seen = records[-1][name] = []
                for linear in linears:
                    hooks.callback(linear.register_forward_hook(_keep(seen)).remove)
        yield records


def _keep(seen: list[_Seen]) -> Any:
    def hook(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((inputs[0], output, module))

    return hook


def _wanted(records: _Records) -> list[Tensor]:
    """Activations whose gradients are asked for: all outputs, and what the maps out take in."""
    outputs = [output for r in records for seen in r.values() for _, output, _ in seen]
    return outputs + [r[name][0][0] for r in records for name in ("heads_out", "hidden_out")]


def _traces(records: _Records, grads: Mapping[int, Tensor]) -> list[BlockTrace]:
    """`grads` are by the activation's id."""
    return [
        BlockTrace(
            heads_in=tuple(_trace(seen, grads) for seen in record["heads_in"]),
            heads_out=_trace(record["heads_out"][0], grads),
            hidden_in=tuple(_trace(seen, grads) for seen in record["hidden_in"]),
            hidden_out=_trace(record["hidden_out"][0], grads),
        )
        for record in records
    ]


def _trace(seen: _Seen, grads: Mapping[int, Tensor]) -> LinearTrace:
    x, output, linear = seen
    return LinearTrace(
        x.detach(),
        grads.get(id(output)),
        grads.get(id(x)),
        linear.bias is not None,
        low_rank_of(linear),
    )
