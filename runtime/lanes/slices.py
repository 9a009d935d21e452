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

from d2ft_sched.costs.input_gradients import executed_schedule, needs_input_gradient
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.lanes import LaneGroup, lane_groups
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import check_schedule
from d2ft_sched.schedule.waves import schedule_waves
from runtime.lanes.held_units import HEAD_PARTS, HeldUnits, all_units, unit_rows

Run = tuple[int, int]
"""First index, and one past the last, of neighbours."""


@dataclass(frozen=True)
class Units:
    """Rows, or columns, of a weight that some heads or hidden units have.

    Attributes:
        runs: of heads or hidden units, counted among those that the weight has, in order.
        num_all: that the weight has.
        parts: how many rows each has in every part that the weight is stacked of: queries, keys
            and values, which may be unequal.
    """

    runs: tuple[Run, ...]
    num_all: int
    parts: tuple[int, ...] = (1,)

    @property
    def is_all(self) -> bool:
        """Whether the weight has no others."""
        return self.runs == ((0, self.num_all),)

    @property
    def is_one_run(self) -> bool:
        """Whether they neighbour one another in the whole weight."""
        return len(self.runs) == 1 and (len(self.parts) == 1 or self.is_all)

    @property
    def indices(self) -> np.ndarray:
        """Of the heads or hidden units, int, sorted."""
        return np.concatenate([np.arange(*run) for run in self.runs])

    def of_maps(self, num_maps: int) -> tuple["Units", ...]:
        """The same in each of the maps whose outputs the parts are, in equal numbers."""
        size = len(self.parts) // num_maps
        return tuple(
            replace(self, parts=self.parts[i * size : (i + 1) * size]) for i in range(num_maps)
        )

    def take(self, tensor: Tensor, dim: int) -> Tensor:
        """Their part of `tensor` along `dim`: a view if they are one run, else a copy."""
        if self.is_all:
            return tensor
        views = self._views(tensor, dim) or [tensor.narrow(dim, 0, 0)]
        return views[0] if len(views) == 1 else torch.cat(views, dim)

    def add_to(self, tensor: Tensor, dim: int, own: Tensor) -> None:
        """Add `own` to their part of `tensor` along `dim`, in place."""
        views = self._views(tensor, dim)
        pieces = own.split([view.shape[dim] for view in views], dim)
        for view, piece in zip(views, pieces, strict=True):
            view.add_(piece)

    def _views(self, tensor: Tensor, dim: int) -> list[Tensor]:
        views, first = [], 0
        for rows in self.parts:
            views += [
                tensor.narrow(dim, first + start * rows, (stop - start) * rows)
                for start, stop in self.runs
            ]
            first += rows * self.num_all
        return views


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
        trains: whether its weights get a gradient; else it hands it on alone, or has none.
        gradient_scale: what the gradient of its result is multiplied by, per column or for all;
            None for 1.
        watch: told its result and the gradient of that, before it is scaled, ``[own T, c]`` each.
    """

    num_samples: int
    tokens: tuple[Run, ...]
    rows: Units
    columns: Units
    tokens_with_dx: tuple[Run, ...]
    trains: bool
    gradient_scale: Tensor | float | None = None
    watch: Callable[[Tensor, Tensor], None] | None = None

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
        tokens_active: runs of tokens in any group.
        recomputes: whether groups keep their inputs alone, and run forward again in backward.
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


def slice_schedule(
    workload: Workload, schedule: np.ndarray, num_waves: int = 1, *, recomputes: bool = False
) -> ScheduleSlices:
    """Cut a mini-batch into waves, and every block of a wave into lane groups.

    Args:
        workload: the model, its subnets and the micro-batches.
        schedule: int ``[num_subnets, num_microbatches]``.
        num_waves: passes through the model, from 1 to num_microbatches.
        recomputes: whether lanes run forward again in backward instead of keeping what they made.

    Raises:
        InputError: the schedule is not one of these subnets and micro-batches.
        ValueError: num_waves is out of range.
    """
    schedule = check_schedule(schedule, workload.num_subnets, workload.num_microbatches)
    if not 1 <= num_waves <= workload.num_microbatches:
        raise ValueError(
            f"num_waves is {num_waves}; it must be 1 to {workload.num_microbatches} micro-batches"
        )
    schedule = executed_schedule(workload, schedule)
    start = np.cumsum(workload.samples) - workload.samples
    units, needs_dx = all_units(workload), needs_input_gradient(workload, schedule)
    waves, num_samples = [], 0
    for microbatches in schedule_waves(schedule, num_waves):
        counts = workload.samples[microbatches]
        first_of_pass = np.full(workload.num_microbatches, -1)
        first_of_pass[microbatches] = np.cumsum(counts) - counts
        num_samples += int(counts.sum())
        blocks = tuple(
            block_lanes(
                workload,
                lane_groups(workload.partition, schedule, block, microbatches=microbatches),
                first_of_pass,
                int(counts.sum()),
                units,
                needs_dx[block],
            ).recomputing(recomputes)
            for block in range(workload.shape.num_blocks)
        )
        samples = _samples_of(workload, start, microbatches)
        waves.append(Wave(index_runs(samples), blocks))
    return ScheduleSlices(num_samples, tuple(waves))


def block_lanes(
    workload: Workload,
    groups: Sequence[LaneGroup],
    first_sample: np.ndarray,
    num_samples: int,
    held: HeldUnits,
    needs_dx: np.ndarray,
) -> BlockLanes:
    """The lane groups of one block as slices of the weights held and of the samples of a pass.

    Args:
        workload: the model, its subnets and the micro-batches.
        groups: whose subnets are all held.
        first_sample: of each micro-batch, counted in the pass, int ``[num_microbatches]``; only
            those of micro-batches of `groups` count.
        num_samples: of the pass.
        held: heads and hidden units that the weights have.
        needs_dx: whose gradient goes on, bool ``[2 sublayers, num_microbatches]``.
    """
    partition, shape = workload.partition, workload.shape
    num_tokens = num_samples * shape.num_tokens
    attention, mlp = [], []
    for group in groups:
        members = [partition.subnets[s] for s in group.subnets]
        of_attention, of_mlp = (
            _parts(workload, group, first_sample, needed) for needed in needs_dx
        )
        heads = np.array([head for m in members for head in m.heads], dtype=np.int64)
        heads = np.searchsorted(held.heads, np.sort(heads))
        if len(heads):
            runs, num_all = index_runs(heads), len(held.heads)
            rows = unit_rows(shape, *HEAD_PARTS)
            units = Units(runs, num_all, rows), Units(runs, num_all, rows[:1])
            attention += [part.lane(*units) for part in of_attention]
        hidden = np.concatenate([np.arange(m.hidden_start, m.hidden_stop) for m in members])
        hidden = np.searchsorted(held.hidden, np.sort(hidden))
        if len(hidden):
            runs, num_all = index_runs(hidden), len(held.hidden)
            units = Units(runs, num_all, (1,) * shape.hidden_rows), Units(runs, num_all)
            mlp += [part.lane(*units) for part in of_mlp]
    return BlockLanes(_sublayer(attention, num_tokens), _sublayer(mlp, num_tokens))


@dataclass(frozen=True)
class _Part:
    """Samples of a lane group, and what a sub-layer does with them; as in `LaneSlice`."""

    operation: Operation
    num_samples: int
    tokens: tuple[Run, ...]
    tokens_with_dx: tuple[Run, ...]

    def lane(self, rows: Units, columns: Units) -> tuple[Operation, LaneSlice]:
        trains = self.operation == Operation.FULL
        sizes = self.num_samples, self.tokens, rows, columns
        return self.operation, LaneSlice(*sizes, self.tokens_with_dx, trains)


def _parts(
    workload: Workload, group: LaneGroup, first_sample: np.ndarray, needs_dx: np.ndarray
) -> list[_Part]:
    """A group as one; REST that hands on the gradients of some micro-batches alone as two, of which
    one runs no backward. `needs_dx` is bool ``[num_microbatches]``."""
    microbatches = np.array(group.microbatches)
    needed = needs_dx[microbatches]
    parts = [(group.operation, microbatches, microbatches[needed])]
    if group.operation == Operation.REST and not needed.all():
        parts = [
            (Operation.REST, microbatches[needed], microbatches[needed]),
            (Operation.FORWARD_ONLY, microbatches[~needed], microbatches[:0]),
        ]
    num_tokens = workload.shape.num_tokens
    made = []
    for operation, own, with_dx in parts:
        if len(own):
            samples = _samples_of(workload, first_sample, own)
            dx_samples = _samples_of(workload, first_sample, with_dx)
            runs = _token_runs(samples, num_tokens), _token_runs(dx_samples, num_tokens)
            made.append(_Part(operation, len(samples), *runs))
    return made


def _sublayer(groups: Sequence[tuple[Operation, LaneSlice]], num_tokens: int) -> SublayerLanes:
    backward = tuple(lane for operation, lane in groups if operation != Operation.FORWARD_ONLY)
    num_backward = _num_covering(num_tokens, [lane.tokens for lane in backward])
    num_trained = _num_covering(num_tokens, [lane.tokens for lane in backward if lane.trains])
    num_with_dx = _num_covering(num_tokens, [lane.tokens_with_dx for lane in backward])
    num_groups = _num_covering(num_tokens, [lane.tokens for _, lane in groups])
    return SublayerLanes(
        num_tokens=num_tokens,
        backward=backward,
        forward_only=tuple(
            lane for operation, lane in groups if operation == Operation.FORWARD_ONLY
        ),
        backward_is_disjoint=bool((num_backward <= 1).all()),
        tokens_without_backward=index_runs(np.flatnonzero(num_backward == 0)),
        tokens_with_backward=index_runs(np.flatnonzero(num_backward)),
        tokens_trained=index_runs(np.flatnonzero(num_trained)),
        tokens_with_dx=index_runs(np.flatnonzero(num_with_dx)),
        tokens_active=index_runs(np.flatnonzero(num_groups)),
    )


def _num_covering(num_tokens: int, runs_of: Sequence[tuple[Run, ...]]) -> np.ndarray:
    """How many of several sets of tokens each token is in, int ``[num_tokens]``."""
    number = np.zeros(num_tokens, dtype=int)
    for runs in runs_of:
        for start, stop in runs:
            number[start:stop] += 1
    return number


def _samples_of(
    workload: Workload, first_sample: np.ndarray, microbatches: np.ndarray
) -> np.ndarray:
    """Samples of some micro-batches, int, sorted."""
    parts = [first_sample[i] + np.arange(workload.samples[i]) for i in microbatches]
    return np.sort(np.concatenate(parts)) if parts else np.array([], dtype=np.int64)


def _token_runs(samples: np.ndarray, num_tokens: int) -> tuple[Run, ...]:
    return tuple((start * num_tokens, stop * num_tokens) for start, stop in index_runs(samples))


def index_runs(indices: np.ndarray) -> tuple[Run, ...]:
    """Runs of neighbours among sorted indices, in order."""
    if len(indices) == 0:
        return ()
    cuts = np.flatnonzero(np.diff(indices) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(indices, cuts))
