"""Attention and MLP of a block as lanes run them, whatever family the block is of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runtime.families.low_rank import LowRank, low_rank_of
from runtime.lanes.adapters import Adapters
from runtime.lanes.passes import Core, Linears
from runtime.lanes.slices import SublayerLanes


@dataclass(frozen=True, eq=False)
class Sublayer:
    """A linear map in, a core without parameters, a linear map out, a norm and a residual sum.

    On a rank the maps have rows and columns of the heads or hidden units held alone; a parameter
    that is not held is None.

    Attributes:
        name: "attention" or "mlp".
        norm: over the last axis; it belongs to the trunk.
        norm_first: whether the sub-layer is ``x + f(norm(x))`` or ``norm(x + f(x))``.
        maps_in: whose outputs stand one after another: queries, keys and values in one map or in
            three, or the hidden units.
        map_out: from heads or hidden units to the stream; its bias belongs to the trunk.
        core: what stands between them.
        scale: LayerScale's vector, or None.
    """

    name: str
    norm: Callable[[Tensor], Tensor]
    norm_first: bool
    maps_in: tuple[nn.Linear, ...]
    map_out: nn.Linear
    core: Core
    scale: nn.Parameter | None = None

    @property
    def is_held(self) -> bool:
        """Whether any head or hidden unit is here."""
        return self.map_out.weight is not None

    @property
    def bias_out(self) -> nn.Parameter | None:
        return self.map_out.bias

    def linears(self) -> Linears:
        """The weights held; those of several maps are stacked in a copy, under autograd."""
        biases = [linear.bias for linear in self.maps_in]
        return Linears(
            _stacked([linear.weight for linear in self.maps_in]),
            None if biases[0] is None else _stacked(biases),
            self.map_out.weight,
        )

    def adapters(self) -> Adapters | None:
        """The low-rank factors held, of maps that `peft` has wrapped; None if it has not.

        Those of several maps are stacked in a copy, under autograd.
        """
        of_in, of_out = self._adapters_in(), low_rank_of(self.map_out)
        if of_out is None:
            return None
        return Adapters(
            _stacked([one.down for one in of_in]),
            _stacked([one.up for one in of_in]),
            of_out.down,
            of_out.up,
            of_out.scale,
            len(of_in),
        )

    def add_adapter_gradients(self, made: Adapters) -> None:
        """Add gradients of all factors held to those that they have."""
        of_out = low_rank_of(self.map_out)
        assert of_out is not None
        pairs = [(of_out.down, made.down_out), (of_out.up, made.up_out)]
        for one, (down, up) in zip(
            self._adapters_in(), made.map_by_map((made.down_in, 0), (made.up_in, 0)), strict=True
        ):
            pairs += [(one.down, down), (one.up, up)]
        for factor, gradient in pairs:
            assert factor.grad is not None
            factor.grad += gradient

    def _adapters_in(self) -> list[LowRank]:
        return [one for linear in self.maps_in if (one := low_rank_of(linear)) is not None]

    def parameters(self) -> list[nn.Parameter]:
        """Those of the maps, the output bias included."""
        return [p for linear in (*self.maps_in, self.map_out) for p in linear.parameters()]

    def new_gradients(self, lanes: SublayerLanes) -> Linears:
        """New gradients of the weights held, made as `Linears.gradient_buffers` makes them.

        Those of several maps are parts of one tensor, so that lanes add to all of them at once.
        """
        with torch.no_grad():
            made = self.linears().gradient_buffers(lanes)
        sizes = [linear.weight.shape[0] for linear in self.maps_in]
        for linear, part in zip(self.maps_in, made.weight_in.split(sizes), strict=True):
            linear.weight.grad = part
        if made.bias_in is not None:
            for linear, part in zip(self.maps_in, made.bias_in.split(sizes), strict=True):
                linear.bias.grad = part
        self.map_out.weight.grad = made.weight_out
        return made


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
