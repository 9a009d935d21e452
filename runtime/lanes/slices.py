"""Lane groups as slices of activations and weights.

Everything is a range known before the step: a group's samples and its part of a weight are views
where they neighbour one another, and a step needs no index tensors and no synchronisation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from runtime.lanes.masks import NO_MASKS, Masks
from runtime.lanes.units import Run, Units, UnitsWithin


@dataclass(frozen=True)
class LaneSlice:
    """One lane group in one sub-layer of one pass.

    Attributes:
        num_samples: samples of the group.
        tokens: runs of tokens of the pass, a sample's tokens being neighbours.
        rows: the group's rows of the maps in: queries, keys and values of its heads, or gate and up
            of its hidden units.
        columns: its columns of the output weight: channels of its heads, or its hidden units.
        tokens_with_dx: those of `tokens` whose gradient goes on to the sub-layer's input.
        trained: runs of heads or hidden units whose weights get a gradient, counted as in `columns`
            and among those of the group; none where it hands it on alone, or has none.
        masks: what of it counts.
        copies_trained: whether it trains a part of units whose results nothing but dW reads, so
            that copies of these are kept alone.
        is_first: of every run of `trained`, whether no group before it in the pass trains any of
            it.
        gradient_scale: what the gradient of its result is multiplied by, per column or for all;
            None for 1.
        watch: told its result and the gradient of that, before it is scaled, ``[own T, c]`` each.
    """

    num_samples: int
    tokens: tuple[Run, ...]
    rows: Units
    columns: Units
    tokens_with_dx: tuple[Run, ...]
    trained: tuple[tuple[Run, Run], ...]
    masks: Masks = NO_MASKS
    copies_trained: bool = False
    is_first: tuple[bool, ...] = ()
    gradient_scale: Tensor | float | None = None
    watch: Callable[[Tensor, Tensor], None] | None = None

    @property
    def trains(self) -> bool:
        """Whether any of its weights get a gradient."""
        return bool(self.trained)

    @cached_property
    def trained_rows(self) -> UnitsWithin:
        """Those of `rows` that get a gradient."""
        return self._trained_of(self.rows)

    @cached_property
    def trained_columns(self) -> UnitsWithin:
        """Those of `columns`, and of the results that are kept."""
        trained = self._trained_of(self.columns)
        if not self.keeps_trained_alone:
            return trained
        stops = np.cumsum([stop - start for start, stop in trained.in_group.runs]).tolist()
        runs = tuple(zip([0, *stops[:-1]], stops, strict=True))
        return replace(trained, in_group=replace(trained.in_group, runs=runs, num_all=stops[-1]))

    @property
    def keeps_trained_alone(self) -> bool:
        """Whether of its results only `trained_columns` are kept."""
        scale = self.gradient_scale
        return self.copies_trained and self.watch is None and not isinstance(scale, Tensor)

    def kept_of(self, result: Tensor) -> Tensor:
        """What backward reads of its results ``[own T, c]``."""
        if not self.keeps_trained_alone:
            return result
        return torch.cat(self._trained_of(self.columns).in_group.views(result, 1), 1)

    def _trained_of(self, units: Units) -> UnitsWithin:
        in_weight, in_group = zip(*self.trained, strict=True) if self.trained else ((), ())
        return UnitsWithin(
            replace(units, runs=in_weight), Units(in_group, units.number, units.parts)
        )

    @property
    def keeps_result(self) -> bool:
        """Whether backward reads its result."""
        return self.trains or self.watch is not None

    @cached_property
    def token_runs(self) -> tuple[tuple[slice, slice], ...]:
        """Each run among the tokens of the pass, and in a buffer that has only the group's."""
        pairs, offset = [], 0
        for start, stop in self.tokens:
            pairs.append((slice(start, stop), slice(offset, offset + stop - start)))
            offset += stop - start
        return tuple(pairs)

    @cached_property
    def dx_runs(self) -> tuple[tuple[slice, slice], ...]:
        """The runs of `tokens_with_dx`, as `token_runs`."""
        pairs = []
        for start, stop in self.tokens_with_dx:
            of_all, of_own = next(p for p in self.token_runs if p[0].start <= start < p[0].stop)
            first = of_own.start + start - of_all.start
            pairs.append((slice(start, stop), slice(first, first + stop - start)))
        return tuple(pairs)

    @property
    def trains_what_runs(self) -> bool:
        """Whether dW is made of its results as they are."""
        return self.gradient_scale is None and self.masks.train_what_runs

    def running(self, result: Tensor, *, in_place: bool) -> Tensor:
        """What it gives to the map out, of its results ``[own T, c]``."""
        mask = self.masks.runs
        return result if mask is None else mask.apply(result, self.columns.parts, in_place=in_place)

    def passing(self, grad_result: Tensor) -> Tensor:
        """Gradients of its results, ``[own T, c]``, in place, where they are passed on."""
        mask = self.masks.passes
        if mask is None:
            return grad_result
        return mask.apply(grad_result, self.columns.parts, in_place=True)

    def training(self, result: Tensor) -> Tensor:
        """What is kept of its results, of which dW of `trained_columns` is made."""
        mask = self.masks.trains
        return self.scaled(result if mask is None else mask.apply(result, self.columns.parts))

    def training_rows(self, grad_projected: Sequence[Tensor]) -> list[Tensor]:
        """Gradients of what each map in makes, ``[own T, r]``, of which dW of `trained_rows` is
        made."""
        mask = self.masks.trains
        if mask is None or self.masks.train_what_passes:
            return list(grad_projected)
        of_maps = self.rows.of_maps(len(grad_projected))
        return [
            mask.apply(grad, rows.parts) for grad, rows in zip(grad_projected, of_maps, strict=True)
        ]

    def scaled(self, values: Tensor) -> Tensor:
        """Values ``[own T, c]`` times `gradient_scale`, in their own type."""
        scale = self.gradient_scale
        if scale is None:
            return values
        return values * (scale.to(values.dtype) if isinstance(scale, Tensor) else scale)

    def of_samples(self, values: Tensor, num_tokens: int) -> Tensor:
        """The group's part of one value, or row, per sample of the pass."""
        parts = [values[start // num_tokens : stop // num_tokens] for start, stop in self.tokens]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class SublayerLanes:
    """The lane groups of one sub-layer in one pass.

    Attributes:
        num_tokens: of the pass, in any group or not.
        backward: groups that run forward and backward: FULL, then REST.
        forward_only: groups that run without autograd.
        backward_is_disjoint: whether no token is in two of the `backward` groups.
        tokens_without_backward: runs of tokens that are in none of them.
        tokens_with_backward: runs of the others.
        tokens_trained: runs of tokens in FULL groups.
        tokens_with_dx: runs of those whose gradient goes on to the sub-layer's input.
        tokens_active: runs of tokens of which anything in any group counts.
        recomputes: whether groups keep their inputs alone, and run forward again in backward.
        begins: whether the first group that runs forward has all tokens.
        untrained: rows and columns of the weights that no group writes a gradient to without
            reading it; None for none.
    """

    num_tokens: int
    backward: tuple[LaneSlice, ...]
    forward_only: tuple[LaneSlice, ...]
    backward_is_disjoint: bool
    tokens_without_backward: tuple[Run, ...]
    tokens_with_backward: tuple[Run, ...]
    tokens_trained: tuple[Run, ...]
    tokens_with_dx: tuple[Run, ...]
    tokens_active: tuple[Run, ...]
    recomputes: bool = False
    begins: bool = False
    untrained: tuple[Units, Units] | None = None

    @property
    def train(self) -> bool:
        """Whether any weight gets a gradient."""
        return bool(self.tokens_trained)

    @property
    def run(self) -> bool:
        """Whether there is any group."""
        return bool(self.tokens_active)


@dataclass(frozen=True)
class BlockLanes:
    """The lane groups of one block in one pass."""

    attention: SublayerLanes
    mlp: SublayerLanes

    def recomputing(self, recomputes: bool) -> "BlockLanes":
        """The same, of which groups run forward again in backward, or not."""
        return BlockLanes(
            replace(self.attention, recomputes=recomputes), replace(self.mlp, recomputes=recomputes)
        )


@dataclass(frozen=True)
class Wave:
    """Micro-batches that pass through the model together.

    Attributes:
        samples: runs of samples of the mini-batch.
        blocks: lane groups of every block, their samples counted in the wave.
    """

    samples: tuple[Run, ...]
    blocks: tuple[BlockLanes, ...]

    def take(self, values: Tensor) -> Tensor:
        """The wave's part of one value, or row, per sample of the mini-batch; a view of one run."""
        parts = [values[start:stop] for start, stop in self.samples]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class ScheduleSlices:
    """A schedule, ready to run.

    Attributes:
        num_samples: samples of the mini-batch that run.
        waves: passes one after another, their gradients accumulated.
    """

    num_samples: int
    waves: tuple[Wave, ...]
