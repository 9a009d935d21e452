"""Lane groups as slices of activations and weights, made once per schedule.

Everything is a range known before the step: a group's samples and its part of a weight are views
where they neighbour one another, and a step needs no index tensors and no synchronisation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from d2ft_sched.lanes import LaneGroup, lane_groups
from d2ft_sched.operations import Operation
from d2ft_sched.schedule import check_schedule
from d2ft_sched.waves import wave_microbatches
from d2ft_sched.workload import Workload
from runtime.held_units import HeldUnits, all_units

Run = tuple[int, int]
"""First index, and one past the last, of neighbours."""


@dataclass(frozen=True)
class Units:
    """Some rows, or columns, of a weight.

    Attributes:
        runs: where they are in every part of the weight, in order; at least one.
        is_all: whether the weight has no others.
        num_parts: equal parts that the weight is stacked of: 3 for queries, keys and values.
    """

    runs: tuple[Run, ...]
    is_all: bool
    num_parts: int = 1

    @property
    def is_one_run(self) -> bool:
        """Whether they neighbour one another in the whole weight."""
        return len(self.runs) == 1 and (self.num_parts == 1 or self.is_all)

    def take(self, tensor: Tensor, dim: int) -> Tensor:
        """Their part of `tensor` along `dim`: a view if they are one run, else a copy."""
        if self.is_all:
            return tensor
        if self.num_parts == 1:
            return self._join(tensor, dim)
        return self._join(tensor.unflatten(dim, (self.num_parts, -1)), dim + 1).flatten(
            dim, dim + 1
        )

    def add_to(self, tensor: Tensor, dim: int, own: Tensor) -> None:
        """Add `own` to their part of `tensor` along `dim`, in place."""
        if self.num_parts > 1:
            tensor = tensor.unflatten(dim, (self.num_parts, -1))
            own = own.unflatten(dim, (self.num_parts, -1))
            dim += 1
        views = self._views(tensor, dim)
        pieces = own.split([view.shape[dim] for view in views], dim)
        for view, piece in zip(views, pieces, strict=True):
            view.add_(piece)

    def _join(self, tensor: Tensor, dim: int) -> Tensor:
        views = self._views(tensor, dim)
        return views[0] if len(views) == 1 else torch.cat(views, dim)

    def _views(self, tensor: Tensor, dim: int) -> list[Tensor]:
        return [tensor.narrow(dim, start, stop - start) for start, stop in self.runs]


@dataclass(frozen=True)
class LaneSlice:
    """One lane group in one sub-layer of one pass.

    Attributes:
        num_samples: samples of the group.
        tokens: runs of tokens of the pass, a sample's tokens being neighbours.
        rows: the group's rows of the input weight: queries, keys and values of its heads, or its
            hidden units.
        columns: its columns of the output weight: channels of its heads, or its hidden units.
        gradient_scale: what the gradient of its result is multiplied by, per column or for all;
            None for 1.
        watch: told its result and the gradient of that, before it is scaled, ``[own T, c]`` each.
    """

    num_samples: int
    tokens: tuple[Run, ...]
    rows: Units
    columns: Units
    gradient_scale: Tensor | float | None = None
    watch: Callable[[Tensor, Tensor], None] | None = None

    @cached_property
    def token_runs(self) -> tuple[tuple[slice, slice], ...]:
        """Each run among the tokens of the pass, and in a buffer that has only the group's."""
        pairs, offset = [], 0
        for start, stop in self.tokens:
            pairs.append((slice(start, stop), slice(offset, offset + stop - start)))
            offset += stop - start
        return tuple(pairs)

    def of_samples(self, values: Tensor, num_tokens: int) -> Tensor:
        """The group's part of one value, or row, per sample of the pass."""
        parts = [values[start // num_tokens : stop // num_tokens] for start, stop in self.tokens]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class SublayerLanes:
    """The lane groups of one sub-layer in one pass.

    Attributes:
        full: groups that run forward and backward.
        forward_only: groups that run without autograd.
        full_is_disjoint: whether no token is in two of the `full` groups.
        tokens_without_full: runs of tokens that are in none of them.
    """

    full: tuple[LaneSlice, ...]
    forward_only: tuple[LaneSlice, ...]
    full_is_disjoint: bool
    tokens_without_full: tuple[Run, ...]


@dataclass(frozen=True)
class BlockLanes:
    """The lane groups of one block in one pass."""

    attention: SublayerLanes
    mlp: SublayerLanes


@dataclass(frozen=True)
class Wave:
    """Neighbouring micro-batches that pass through the model together.

    Attributes:
        samples: which samples of the mini-batch.
        blocks: lane groups of every block, their samples counted from the wave's first.
    """

    samples: slice
    blocks: tuple[BlockLanes, ...]


@dataclass(frozen=True)
class ScheduleSlices:
    """A schedule, ready to run.

    Attributes:
        num_samples: samples of the mini-batch.
        waves: passes one after another, their gradients accumulated.
    """

    num_samples: int
    waves: tuple[Wave, ...]


def slice_schedule(workload: Workload, schedule: np.ndarray, num_waves: int = 1) -> ScheduleSlices:
    """Cut a mini-batch into waves, and every block of a wave into lane groups.

    Args:
        workload: the model, its subnets and the micro-batches.
        schedule: int ``[num_subnets, num_microbatches]``.
        num_waves: passes through the model, from 1 to num_microbatches.

    Raises:
        InputError: the schedule is not one of these subnets and micro-batches.
        ValueError: num_waves is out of range.
    """
    schedule = check_schedule(schedule, workload.num_subnets, workload.num_microbatches)
    if not 1 <= num_waves <= workload.num_microbatches:
        raise ValueError(
            f"num_waves is {num_waves}; it must be 1 to {workload.num_microbatches} micro-batches"
        )
    bounds = np.concatenate([[0], np.cumsum(workload.samples)])
    units = all_units(workload)
    waves = []
    for microbatches in wave_microbatches(workload.num_microbatches, num_waves):
        first, stop = int(bounds[microbatches[0]]), int(bounds[microbatches[-1] + 1])
        blocks = tuple(
            block_lanes(
                workload,
                lane_groups(workload.partition, schedule, block, microbatches=microbatches),
                bounds[:-1] - first,
                stop - first,
                units,
            )
            for block in range(workload.shape.num_blocks)
        )
        waves.append(Wave(slice(first, stop), blocks))
    return ScheduleSlices(int(bounds[-1]), tuple(waves))


def block_lanes(
    workload: Workload,
    groups: Sequence[LaneGroup],
    first_sample: np.ndarray,
    num_samples: int,
    held: HeldUnits,
) -> BlockLanes:
    """The lane groups of one block as slices of the weights held and of the samples of a pass.

    Args:
        workload: the model, its subnets and the micro-batches.
        groups: whose subnets are all held.
        first_sample: of each micro-batch, counted in the pass, int ``[num_microbatches]``; only
            those of micro-batches of `groups` count.
        num_samples: of the pass.
        held: heads and hidden units that the weights have.
    """
    partition, head_dim = workload.partition, workload.shape.head_dim
    num_tokens = num_samples * workload.shape.num_tokens
    attention, mlp = [], []
    for group in groups:
        members = [partition.subnets[s] for s in group.subnets]
        samples = np.sort(
            np.concatenate(
                [first_sample[i] + np.arange(workload.samples[i]) for i in group.microbatches]
            )
        )
        tokens = _token_runs(samples, workload.shape.num_tokens)
        heads = np.array([head for m in members for head in m.heads], dtype=np.int64)
        heads = np.searchsorted(held.heads, np.sort(heads))
        channels = (heads[:, None] * head_dim + np.arange(head_dim)).ravel()
        if len(channels):
            columns = _units(channels, len(held.heads) * head_dim)
            lane = LaneSlice(len(samples), tokens, replace(columns, num_parts=3), columns)
            attention.append((group.operation, lane))
        hidden = np.concatenate([np.arange(m.hidden_start, m.hidden_stop) for m in members])
        hidden = np.searchsorted(held.hidden, np.sort(hidden))
        if len(hidden):
            units = _units(hidden, len(held.hidden))
            mlp.append((group.operation, LaneSlice(len(samples), tokens, units, units)))
    return BlockLanes(_sublayer(attention, num_tokens), _sublayer(mlp, num_tokens))


def _sublayer(groups: Sequence[tuple[Operation, LaneSlice]], num_tokens: int) -> SublayerLanes:
    full = tuple(lane for operation, lane in groups if operation == Operation.FULL)
    num_full_groups = np.zeros(num_tokens, dtype=int)
    for lane in full:
        for start, stop in lane.tokens:
            num_full_groups[start:stop] += 1
    return SublayerLanes(
        full=full,
        forward_only=tuple(
            lane for operation, lane in groups if operation == Operation.FORWARD_ONLY
        ),
        full_is_disjoint=bool((num_full_groups <= 1).all()),
        tokens_without_full=index_runs(np.flatnonzero(num_full_groups == 0)),
    )


def _token_runs(samples: np.ndarray, num_tokens: int) -> tuple[Run, ...]:
    return tuple((start * num_tokens, stop * num_tokens) for start, stop in index_runs(samples))


def _units(indices: np.ndarray, num_all: int) -> Units:
    return Units(index_runs(indices), is_all=len(indices) == num_all)


def index_runs(indices: np.ndarray) -> tuple[Run, ...]:
    """Runs of neighbours among sorted indices, in order."""
    if len(indices) == 0:
        return ()
    cuts = np.flatnonzero(np.diff(indices) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(indices, cuts))
