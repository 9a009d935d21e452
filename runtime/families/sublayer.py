"""Attention and MLP of a block as lanes run them, whatever family the block is of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runtime.families.low_rank import LowRank, low_rank_of
from runtime.lanes.adapters import Adapters
from runtime.lanes.core_graph import Core
from runtime.lanes.linears import Linears


@dataclass(frozen=True, eq=False)
class Sublayer:
    """Linear maps in, a core, a linear map out, a norm and a residual sum.

    On a rank the maps have rows and columns of the heads or hidden units held alone; a parameter
    that is not held is None.

    Attributes:
        name: "attention" or "mlp".
        norm: over the last axis; it belongs to the trunk.
        norm_first: whether the sub-layer is ``x + f(norm(x))`` or ``norm(x + f(x))``.
        maps_in: to queries, keys and values, one or three; to hidden units, or to their gates and
            to what these let through.
        map_out: from heads or hidden units to the stream; its bias belongs to the trunk.
        core: what stands between them.
        scale: LayerScale's vector, or None.
        core_modules: whose parameters the core has, and all heads of the block share.
    """

    name: str
    norm: Callable[[Tensor], Tensor]
    norm_first: bool
    maps_in: tuple[nn.Linear, ...]
    map_out: nn.Linear
    core: Core
    scale: nn.Parameter | None = None
    core_modules: tuple[nn.Module, ...] = ()

    @property
    def is_held(self) -> bool:
        """Whether any head or hidden unit is here."""
        return self.map_out.weight is not None

    @property
    def bias_out(self) -> nn.Parameter | None:
        return self.map_out.bias

    @property
    def core_parameters(self) -> tuple[nn.Parameter, ...]:
        """Those of `core_modules` that train."""
        return tuple(p for m in self.core_modules for p in m.parameters() if p.requires_grad)

    def linears(self) -> Linears:
        """The weights held, as they are."""
        return Linears(
            tuple(linear.weight for linear in self.maps_in),
            tuple(linear.bias for linear in self.maps_in),
            self.map_out.weight,
            self.core_parameters,
        )

    def adapters(self) -> Adapters | None:
        """The low-rank factors held, of maps that `peft` has wrapped; None if it has not.

        The first factors of several maps are stacked in a copy, under autograd.
        """
        of_in, of_out = self._adapters_in(), low_rank_of(self.map_out)
        if of_out is None:
            return None
        downs = [one.down for one in of_in]
        return Adapters(
            downs[0] if len(downs) == 1 else torch.cat(downs),
            tuple(one.up for one in of_in),
            of_out.down,
            of_out.up,
            of_out.scale,
        )

    def add_adapter_gradients(self, made: Adapters) -> None:
        """Add gradients of all factors held to those that they have."""
        of_in, of_out = self._adapters_in(), low_rank_of(self.map_out)
        assert of_out is not None
        pairs = [(of_out.down, made.down_out), (of_out.up, made.up_out)]
        pairs += zip([one.up for one in of_in], made.ups_in, strict=True)
        pairs += zip([one.down for one in of_in], made.down_in.chunk(len(of_in)), strict=True)
        for factor, gradient in pairs:
            assert factor.grad is not None
            factor.grad += gradient

    def _adapters_in(self) -> list[LowRank]:
        return [one for linear in self.maps_in if (one := low_rank_of(linear)) is not None]

    def parameters(self) -> list[nn.Parameter]:
        """Those of the maps, the output bias included, and of the core."""
        modules = (*self.maps_in, self.map_out, *self.core_modules)
        return [p for module in modules for p in module.parameters()]

    def set_gradients(self, made: Linears) -> None:
        """Let the weights held have these gradients; those in the core keep what they have."""
        weights = (*self.maps_in, self.map_out)
        gradients = (*made.weights_in, made.weight_out)
        for linear, gradient in zip(weights, gradients, strict=True):
            linear.weight.grad = gradient
        for linear, bias in zip(self.maps_in, made.biases_in, strict=True):
            if bias is not None:
                linear.bias.grad = bias
