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

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.input_gradients import executed_schedule, needs_input_gradient
from d2ft_sched.costs.lane_groups import lane_groups
from d2ft_sched.costs.memory import merging_devices
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.lanes import LaneGroup
from d2ft_sched.schedule.operations import Operation, runs_backward
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.schedule import check_schedule
from d2ft_sched.schedule.waves import schedule_waves
from runtime.lanes.held_units import HEAD_PARTS, HeldUnits, all_units, unit_rows
from runtime.lanes.masks import NO_MASKS, Masks, masks_of

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

    def places(self, tensor: Tensor, dim: int) -> list[Tensor]:
        """Views of all that they have of `tensor` along `dim`, run by run in every part; one where
        they are all."""
        return [tensor] if self.is_all else self._views(tensor, dim)

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
        masks: what of it counts.
        is_first: of every run of its columns, and of its rows in each part, whether no group before
            it in the pass trains any of it.
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
    masks: Masks = NO_MASKS
    is_first: tuple[bool, ...] = ()
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
        """What of its results ``[own T, c]`` dW of the map out is made of."""
        mask = self.masks.trains
        return self.scaled(result if mask is None else mask.apply(result, self.columns.parts))

    def training_rows(self, grad_projected: Sequence[Tensor]) -> list[Tensor]:
        """What of gradients of what each map in makes, ``[own T, r]``, its dW is made of."""
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


def slice_schedule(
    workload: Workload,
    schedule: np.ndarray,
    num_waves: int = 1,
    device: Device | None = None,
    *,
    recomputes: bool = False,
) -> ScheduleSlices:
    """Cut a mini-batch into waves, and every block of a wave into lane groups.

    Args:
        workload: the model, its subnets and the micro-batches.
        schedule: int ``[num_subnets, num_microbatches]``.
        num_waves: passes through the model, from 1 to num_microbatches.
        device: what things cost, which says what runs together; default what the schedule asks for
            and nothing else.
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
    every = (0,) * workload.num_subnets
    here = Placement(
        1, every, (0,) * workload.num_microbatches, recomputing=(0,) if recomputes else ()
    )
    devices = merging_devices(workload, here, [device])
    waves, num_samples = [], 0
    for microbatches in schedule_waves(schedule, num_waves):
        counts = workload.samples[microbatches]
        first_of_pass = np.full(workload.num_microbatches, -1)
        first_of_pass[microbatches] = np.cumsum(counts) - counts
        num_samples += int(counts.sum())
        groups = lane_groups(workload, here, schedule, microbatches, devices)
        blocks = tuple(
            block_lanes(
                workload,
                groups.at(0, block),
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
    head_parts = unit_rows(shape, *HEAD_PARTS)
    num_heads, num_hidden = len(held.heads), len(held.hidden)
    of_heads, of_hidden = (
        (Units(((0, number),), number, parts), Units(((0, number),), number, parts[:1]))
        for number, parts in (
            (num_heads, head_parts),
            (num_hidden, (1,) * shape.hidden_rows),
        )
    )
    attention, mlp = list[_Placed](), list[_Placed]()
    for group in groups:
        members = [partition.subnets[s] for s in group.subnets]
        of_attention, of_mlp = (_parts(group, first_sample, needed) for needed in needs_dx)
        heads, subnet_of_head = _units_of([m.heads for m in members], held.heads)
        hidden, subnet_of_hidden = _units_of(
            [range(m.hidden_start, m.hidden_stop) for m in members], held.hidden
        )
        for parts, indices, subnet_of, (rows, columns), into in (
            (of_attention, heads, subnet_of_head, of_heads, attention),
            (of_mlp, hidden, subnet_of_hidden, of_hidden, mlp),
        ):
            if len(indices):
                runs = index_runs(indices)
                own = replace(rows, runs=runs), replace(columns, runs=runs)
                into += [part.placed(workload, first_sample, subnet_of, *own) for part in parts]
    return BlockLanes(
        _sublayer(attention, num_tokens, *of_heads), _sublayer(mlp, num_tokens, *of_hidden)
    )


@dataclass(frozen=True)
class _Placed:
    """A lane group of a sub-layer, and runs of its tokens on which anything of it counts, on which
    it passes a gradient on, and on which it trains."""

    lane: LaneSlice
    counts: tuple[Run, ...]
    passes: tuple[Run, ...]
    trains: tuple[Run, ...]


@dataclass(frozen=True)
class _Part:
    """A lane group, or some samples of it, in one sub-layer.

    Attributes:
        cells: operations there, int8 ``[subnets, micro-batches]``.
        microbatches: in the order of the pass.
        needs_dx: whether the gradient of each goes on to the sub-layer's input, bool.
    """

    cells: np.ndarray
    microbatches: np.ndarray
    needs_dx: np.ndarray

    def placed(
        self,
        workload: Workload,
        first_sample: np.ndarray,
        subnet_of_unit: np.ndarray,
        rows: Units,
        columns: Units,
    ) -> _Placed:
        def tokens(microbatches: np.ndarray) -> tuple[Run, ...]:
            samples = _samples_of(workload, first_sample, microbatches)
            return _token_runs(samples, workload.shape.num_tokens)

        of_sample = np.repeat(self.cells, workload.samples[self.microbatches], axis=1)
        operations = of_sample[subnet_of_unit].T
        trains = operations == Operation.FULL
        masks = masks_of(operations != Operation.SHORTCUT, runs_backward(operations), trains)
        cells = self.cells[np.unique(subnet_of_unit)]
        passing = np.asarray(runs_backward(cells).any(axis=0))
        training = np.asarray((cells == Operation.FULL).any(axis=0))
        lane = LaneSlice(
            len(of_sample[0]),
            tokens(self.microbatches),
            rows,
            columns,
            tokens(self.microbatches[passing & self.needs_dx]),
            bool(trains.any()),
            masks,
        )
        counting = np.asarray((cells != Operation.SHORTCUT).any(axis=0))
        chosen = (self.microbatches[which] for which in (counting, passing, training))
        return _Placed(lane, *(tokens(own) for own in chosen))


def _parts(group: LaneGroup, first_sample: np.ndarray, needs_dx: np.ndarray) -> list[_Part]:
    """A group as one; one that trains nothing and hands on the gradients of some micro-batches
    alone as two, of which one runs no backward. `needs_dx` is bool ``[num_microbatches]``."""
    microbatches = np.array(group.microbatches)
    order = np.argsort(first_sample[microbatches])
    microbatches, cells = microbatches[order], group.cells[:, order]
    needed = needs_dx[microbatches]
    rests = (cells == Operation.REST) & ~needed
    cells = np.where(rests, np.int8(Operation.FORWARD_ONLY), cells)
    apart = [np.ones(len(microbatches), dtype=bool)]
    if rests.any() and not (cells == Operation.FULL).any():
        passes = runs_backward(cells).any(axis=0)
        apart = [np.asarray(passes), ~np.asarray(passes)]
    return [_Part(cells[:, own], microbatches[own], needed[own]) for own in apart if own.any()]


def _sublayer(
    groups: Sequence[_Placed], num_tokens: int, rows: Units, columns: Units
) -> SublayerLanes:
    """`rows` and `columns` are all of the weights held."""
    backward = _in_order([one.lane for one in groups if one.passes], columns)
    forward_only = [one.lane for one in groups if not one.passes]
    written = [run for lane in backward for run, own in _trained_runs(lane) if own]
    untrained = index_runs(np.flatnonzero(_num_covering(columns.num_all, [tuple(written)]) == 0))
    num_backward = _num_covering(num_tokens, [lane.tokens for lane in backward])

    def some(units: Units) -> Units:
        return replace(units, runs=untrained)

    def covered(runs_of: Sequence[tuple[Run, ...]]) -> tuple[Run, ...]:
        return index_runs(np.flatnonzero(_num_covering(num_tokens, runs_of)))

    return SublayerLanes(
        num_tokens=num_tokens,
        backward=tuple(backward),
        forward_only=tuple(forward_only),
        backward_is_disjoint=bool((num_backward <= 1).all()),
        tokens_without_backward=index_runs(np.flatnonzero(num_backward == 0)),
        tokens_with_backward=covered([one.passes for one in groups]),
        tokens_trained=covered([one.trains for one in groups]),
        tokens_with_dx=covered([lane.tokens_with_dx for lane in backward]),
        tokens_active=covered([one.counts for one in groups]),
        begins=[lane.tokens for lane in (*forward_only, *backward)][:1] == [((0, num_tokens),)],
        untrained=(some(rows), some(columns)) if untrained else None,
    )


def _in_order(lanes: Sequence[LaneSlice], columns: Units) -> list[LaneSlice]:
    """Those that train first, the largest before others, each told which runs it trains first."""
    written = np.zeros(columns.num_all, dtype=bool)
    made = []
    for lane in sorted(lanes, key=lambda lane: -lane.trains * _num_units(lane.columns)):
        is_first = tuple(not written[slice(*run)].any() for run in lane.columns.runs)
        made.append(replace(lane, is_first=is_first))
        if lane.trains:
            for run in lane.columns.runs:
                written[slice(*run)] = True
    return made


def _num_units(units: Units) -> int:
    return sum(stop - start for start, stop in units.runs)


def _trained_runs(lane: LaneSlice) -> list[tuple[Run, bool]]:
    """Runs of columns, and whether the group writes their gradient without reading it."""
    return [
        (run, lane.trains and own)
        for run, own in zip(lane.columns.runs, lane.is_first, strict=True)
    ]


def _units_of(
    of_subnets: Sequence[Sequence[int]], held: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Heads or hidden units of some subnets among those held, int, sorted; and which of the subnets
    each belongs to."""
    units = np.concatenate([np.asarray(own, dtype=np.int64) for own in of_subnets])
    subnet = np.repeat(np.arange(len(of_subnets)), [len(own) for own in of_subnets])
    order = np.argsort(units)
    return np.searchsorted(held, units[order]), subnet[order]


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
