"""Low-rank adapters (LoRA) of a sub-layer's linear maps, and what lane groups share of them.

To a map in, ``x W^T``, an adapter adds ``scale (x A^T) B^T``; to a map out the same. Heads and
hidden units have their rows of the first B and their columns of the second A; the first A and the
second B are the block's. So ``x A^T`` of the maps in is computed once for all groups, and what the
groups give to the second A is summed before it is multiplied with B. Several maps in (queries, keys
and values; gate and up) have factors of their own, of as many rows as the map has.
Shapes: T tokens, D width, r rank, m maps in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.lanes.products import add_product_of_all, add_product_of_own, add_product_on_runs
from runtime.lanes.slices import LaneSlice, SublayerLanes


@dataclass(frozen=True)
class Adapters:
    """The factors of a sub-layer or the part of them that is held, or their gradients.

    Attributes:
        down_in: A of the maps in, one after another, ``[m r, D]``.
        ups_in: B of each map in, ``[rows, r]``.
        down_out: A of the map out, ``[r, columns]``.
        up_out: B of the map out, ``[D, r]``.
        scale: alpha / r.
    """

    down_in: Tensor
    ups_in: tuple[Tensor, ...]
    down_out: Tensor
    up_out: Tensor
    scale: float

    @property
    def num_maps_in(self) -> int:
        return len(self.ups_in)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order in which `like` takes them."""
        return self.down_in, self.down_out, self.up_out, *self.ups_in

    @staticmethod
    def like(tensors: Sequence[Tensor], scale: float) -> "Adapters":
        """The inverse of `tensors`."""
        down_in, down_out, up_out, *ups_in = tensors
        return Adapters(down_in, tuple(ups_in), down_out, up_out, scale)

    def to(self, dtype: torch.dtype) -> "Adapters":
        """In another type; themselves if they have it."""
        return self.like([tensor.to(dtype) for tensor in self.tensors], self.scale)

    def gradient_buffers(self) -> "Adapters":
        """Zeros to add gradients to."""
        return self.like([torch.zeros_like(tensor) for tensor in self.tensors], self.scale)

    def rows_in(self, group: LaneSlice) -> list[Tensor]:
        """The group's rows of B of each map in, ``[own rows, r]``."""
        of_maps = group.rows.of_maps(self.num_maps_in)
        return [rows.take(up, 0) for rows, up in zip(of_maps, self.ups_in, strict=True)]

    def of_maps(self, low: Tensor) -> tuple[Tensor, ...]:
        """Each map's part of products with A of the maps in, ``[T, m r]``."""
        return low.chunk(self.num_maps_in, 1)


class AdapterSums:
    """Products with the shared factors, scaled, of all tokens of a pass, ``[T, r]`` each.

    Attributes:
        low_in: ``scale x A^T`` of the maps in, ``[T, m r]``.
        low_out: what the FULL groups give to A of the map out, summed; scaled by `finish`.
        low_trained: the same, with every group's result times its ``gradient_scale``.
    """

    def __init__(self, x: Tensor, adapters: Adapters, lanes: SublayerLanes) -> None:
        """Begin with `x`, ``[T, D]``, before any group runs."""
        self._adapters, self._lanes = adapters.to(x.dtype), lanes
        size = (len(x), len(adapters.down_out))
        self.low_in = x.new_zeros(len(x), len(adapters.down_in))
        self.low_out = x.new_zeros(size)
        groups = (*lanes.backward, *lanes.forward_only)
        self._low_constant = None if all(g.trains for g in groups) else x.new_zeros(size)
        is_rescaled = any(g.trains and g.gradient_scale is not None for g in groups)
        self.low_trained = x.new_zeros(size) if is_rescaled else self.low_out
        down = self._adapters.down_in.t()
        add_product_on_runs(self.low_in, x, down, lanes.tokens_active, keep=False)
        self.low_in.mul_(adapters.scale)

    def add_to_projected(self, projected: Sequence[Tensor], group: LaneSlice) -> None:
        """Add the adapters of the maps in to ``[own T, own rows]`` of each."""
        adapters = self._adapters
        for part, low, up in zip(
            projected, adapters.of_maps(self.low_in), adapters.rows_in(group), strict=True
        ):
            add_product_of_all(part, low, up.t(), group)

    def add_result(self, result: Tensor, group: LaneSlice) -> None:
        """Take in what a group gives to the map out, ``[own T, own columns]``."""
        low = self.low_out if group.trains else self._low_constant
        assert low is not None
        down = group.columns.take(self._adapters.down_out, 1).t()
        add_product_of_own(low, result, down, group)
        if group.trains and self.low_trained is not self.low_out:
            add_product_of_own(self.low_trained, group.scaled(result), down, group)

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
