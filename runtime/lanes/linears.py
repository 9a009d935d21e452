"""The linear maps of a sub-layer or the part of them that is held, and products with them.

Shapes: T tokens of a pass, D width; a lane group has own tokens, r rows of a map in and c columns
of the map out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.lanes.products import (
    add_bias_gradient,
    add_input_weight_gradient,
    parameter_gradient_buffer,
    product_of_all,
)
from runtime.lanes.slices import LaneSlice, SublayerLanes
from runtime.lanes.units import Units


@dataclass(frozen=True)
class Linears:
    """Weights, or their gradients.

    Attributes:
        weights_in: ``[rows, D]`` of every map in, whose outputs stand one after another: queries,
            keys and values in one map or in three; gate and up; hidden units.
        biases_in: ``[rows]`` or None of each.
        weight_out: ``[D, columns]``.
        in_core: what the core between them has of parameters, which all heads share.
    """

    weights_in: tuple[Tensor, ...]
    biases_in: tuple[Tensor | None, ...]
    weight_out: Tensor
    in_core: tuple[Tensor, ...] = ()

    @property
    def num_maps_in(self) -> int:
        return len(self.weights_in)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All of them, in the order in which `like` takes them."""
        return (self.weight_out, *self.weights_in, *self.biases_in, *self.in_core)

    @staticmethod
    def like(tensors: Sequence[Tensor | None], num_maps_in: int) -> "Linears":
        """The inverse of `tensors`."""
        out, stop = tensors[0], 1 + num_maps_in
        weights = tuple(t for t in tensors[1:stop] if t is not None)
        in_core = tuple(t for t in tensors[stop + num_maps_in :] if t is not None)
        assert out is not None
        return Linears(weights, tuple(tensors[stop : stop + num_maps_in]), out, in_core)

    def to(self, dtype: torch.dtype) -> "Linears":
        """In another type; themselves if they have it. What is in the core stays as it is."""
        return Linears(
            tuple(weight.to(dtype) for weight in self.weights_in),
            tuple(None if bias is None else bias.to(dtype) for bias in self.biases_in),
            self.weight_out.to(dtype),
            self.in_core,
        )

    def gradient_buffers(self, lanes: SublayerLanes) -> "Linears":
        """What lane groups write to, and add to."""
        return self.with_places(lanes, parameter_gradient_buffer)

    def with_places(
        self, lanes: SublayerLanes, place: Callable[[Tensor, Units | None, int], Tensor]
    ) -> "Linears":
        """Gradients that `place` makes of each weight, from what lane groups do not write of it
        without reading it, and along which dimension; those in the core are zeros."""
        rows, columns = lanes.untrained or (None, None)
        of_maps: Sequence[Units | None] = [None] * self.num_maps_in
        if rows is not None:
            of_maps = rows.of_maps(self.num_maps_in)
        return Linears(
            tuple(place(w, own, 0) for w, own in zip(self.weights_in, of_maps, strict=True)),
            tuple(
                None if bias is None else place(bias, own, 0)
                for bias, own in zip(self.biases_in, of_maps, strict=True)
            ),
            place(self.weight_out, columns, 1),
            tuple(torch.zeros_like(parameter) for parameter in self.in_core),
        )

    def project(self, x: Tensor, group: LaneSlice) -> list[Tensor]:
        """What each map in makes of ``[T, D]``: the group's tokens and rows, ``[own T, r]``."""
        projected = []
        for weight, bias, rows in zip(
            self.weights_in, self.biases_in, group.rows.of_maps(self.num_maps_in), strict=True
        ):
            own_bias = None if bias is None else rows.take(bias, 0)
            projected.append(product_of_all(x, rows.take(weight, 0).t(), group, own_bias))
        return projected

    def rows_in(self, group: LaneSlice) -> list[Tensor]:
        """The group's rows of each map in, ``[r, D]``."""
        of_maps = group.rows.of_maps(self.num_maps_in)
        return [rows.take(weight, 0) for rows, weight in zip(of_maps, self.weights_in, strict=True)]

    def add_input_gradients(
        self, grad_projected: Sequence[Tensor], x: Tensor, group: LaneSlice, *, is_new: bool
    ) -> None:
        """Add the dW of the maps in to these gradients, from those of what `project` made; if
        `is_new` they hold nothing yet but what groups before this one have written."""
        for weight, bias, rows, grad in zip(
            self.weights_in,
            self.biases_in,
            group.trained_rows.of_maps(self.num_maps_in),
            grad_projected,
            strict=True,
        ):
            add_input_weight_gradient(weight, rows, grad, x, group, is_new=is_new)
            if bias is not None:
                add_bias_gradient(bias, rows, grad, group, is_new=is_new)
