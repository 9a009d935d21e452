"""Low-rank adapters (LoRA) of a sub-layer's linear maps, and what lane groups share of them.

To a map in, ``x W^T``, an adapter adds ``scale (x A^T) B^T``; to a map out the same. Heads and
hidden units have their rows of the first B and their columns of the second A; the first A and the
second B are the block's. So ``x A^T`` of the map in is computed once for all groups, and what the
groups give to the second A is summed before it is multiplied with B. Where queries, keys and values
have maps of their own, their factors stand one after another.
Shapes: T tokens, D width, r rank, m maps in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.lanes.products import add_product_of_all, add_product_of_own, add_product_on_runs
from runtime.lanes.slices import LaneSlice, SublayerLanes


@dataclass(frozen=True)
class Adapters:
    """The factors of a sub-layer or the part of them that is held, or their gradients.

    Attributes:
        down_in: A of the maps in, ``[m r, D]``.
        up_in: B of the maps in, ``[rows, r]``.
        down_out: A of the map out, ``[r, columns]``.
        up_out: B of the map out, ``[D, r]``.
        scale: alpha / r.
        num_maps_in: m.
    """

    down_in: Tensor
    up_in: Tensor
    down_out: Tensor
    up_out: Tensor
    scale: float
    num_maps_in: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.down_in, self.up_in, self.down_out, self.up_out

    def to(self, dtype: torch.dtype) -> "Adapters":
        """In another type; themselves if they have it."""
        down_in, up_in, down_out, up_out = (tensor.to(dtype) for tensor in self.tensors)
        return Adapters(down_in, up_in, down_out, up_out, self.scale, self.num_maps_in)

    def gradient_buffers(self) -> "Adapters":
        """Zeros to add gradients to."""
        down_in, up_in, down_out, up_out = (torch.zeros_like(t) for t in self.tensors)
        return Adapters(down_in, up_in, down_out, up_out, self.scale, self.num_maps_in)

    def map_by_map(self, *tensors: tuple[Tensor, int]) -> Iterator[tuple[Tensor, ...]]:
        """The part of each tensor that belongs to a map in, along the dimension that stacks them;
        for one map after another."""
        return zip(*(t.chunk(self.num_maps_in, dim) for t, dim in tensors), strict=True)


class AdapterSums:
    """Products with the shared factors, scaled, of all tokens of a pass, ``[T, r]`` each.

    Attributes:
        low_in: ``scale x A^T`` of the maps in, ``[T, m r]``.
        low_out: what the FULL groups give to A of the map out, summed; scaled by `finish`.
        low_trained: the same of what trains, with every group's result times its
            ``gradient_scale``.
    """

    def __init__(self, x: Tensor, adapters: Adapters, lanes: SublayerLanes) -> None:
        """Begin with `x`, ``[T, D]``, before any group runs."""
        self._adapters, self._lanes = adapters.to(x.dtype), lanes
        size = (len(x), len(adapters.down_out))
        self.low_in = x.new_zeros(len(x), len(adapters.down_in))
        self.low_out = x.new_zeros(size)
        groups = (*lanes.backward, *lanes.forward_only)
        self._low_constant = None if all(g.trains for g in groups) else x.new_zeros(size)
        differs = any(g.trains and not g.trains_what_runs for g in groups)
        self.low_trained = x.new_zeros(size) if differs else self.low_out
        down = self._adapters.down_in.t()
        add_product_on_runs(self.low_in, x, down, lanes.tokens_active, keep=False)
        self.low_in.mul_(adapters.scale)

    def add_to_projected(self, projected: Tensor, group: LaneSlice) -> None:
        """Add the adapters of the maps in to ``[own T, own rows]``."""
        up_in = group.rows.take(self._adapters.up_in, 0)
        for part, low, up in self._adapters.map_by_map(
            (projected, 1), (self.low_in, 1), (up_in, 0)
        ):
            add_product_of_all(part, low, up.t(), group)

    def add_result(self, result: Tensor, given: Tensor, group: LaneSlice) -> None:
        """Take in a group's result and what of it is given to the map out, ``[own T, own columns]``
        each."""
        low = self.low_out if group.trains else self._low_constant
        assert low is not None
        down = group.columns.take(self._adapters.down_out, 1).t()
        add_product_of_own(low, given, down, group)
        if group.trains and self.low_trained is not self.low_out:
            trained = given if group.trains_what_runs else group.training(result)
            add_product_of_own(self.low_trained, trained, down, group)

    def finish(self, out: Tensor) -> None:
        """Add the map out's adapter to `out`, ``[T, D]``, after all groups have run."""
        self.low_out.mul_(self._adapters.scale)
        if self.low_trained is not self.low_out:
            self.low_trained.mul_(self._adapters.scale)
        low = self.low_out
        if self._low_constant is not None:
            low = low.add(self._low_constant, alpha=self._adapters.scale)
            self._low_constant = None
        add_product_on_runs(out, low, self._adapters.up_out.t(), self._lanes.tokens_active)
