"""A schedule cut into slices, made once while it lasts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.input_gradients import executed_schedule, needs_input_gradient
from d2ft_sched.costs.lanes.lane_groups import lane_groups
from d2ft_sched.costs.memory import merging_devices
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.lanes import LaneGroup
from d2ft_sched.schedule.operations import Operation, runs_backward
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.schedule import check_schedule
from d2ft_sched.schedule.waves import schedule_waves
from runtime.lanes.held_units import HEAD_PARTS, HeldUnits, all_units, unit_rows
from runtime.lanes.masks import masks_of
from runtime.lanes.slices import BlockLanes, LaneSlice, ScheduleSlices, SublayerLanes, Wave
from runtime.lanes.units import Run, Units, index_runs, joined_runs


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
            f"num_waves is {num_waves}; it must be 1 to "
            f"{counted(workload.num_microbatches, 'micro-batch')}"
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
        waves.append(Wave(joined_runs(start, workload.samples, microbatches), blocks))
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
                into += [
                    part.placed(workload, first_sample, subnet_of, *own, is_mlp=into is mlp)
                    for part in parts
                ]
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
        trained: subnets whose dW is made where anything is FULL, bool.
        microbatches: in the order of the pass.
        needs_dx: whether the gradient of each goes on to the sub-layer's input, bool.
    """

    cells: np.ndarray
    trained: np.ndarray
    microbatches: np.ndarray
    needs_dx: np.ndarray

    def placed(
        self,
        workload: Workload,
        first_sample: np.ndarray,
        subnet_of_unit: np.ndarray,
        rows: Units,
        columns: Units,
        *,
        is_mlp: bool,
    ) -> _Placed:
        first_token = first_sample * workload.shape.num_tokens

        def tokens(microbatches: np.ndarray) -> tuple[Run, ...]:
            return joined_runs(first_token, workload.tokens, microbatches)

        of_sample = np.repeat(self.cells, workload.samples[self.microbatches], axis=1)
        operations = of_sample[subnet_of_unit].T
        trains = operations == Operation.FULL
        trained = self.trained[subnet_of_unit] & trains.any()
        runs = operations != Operation.SHORTCUT
        masks = masks_of(runs, runs_backward(operations), trains, trained)
        cells = self.cells[np.unique(subnet_of_unit)]
        passing = np.asarray(runs_backward(cells).any(axis=0))
        training = np.asarray((cells == Operation.FULL).any(axis=0))
        lane = LaneSlice(
            len(of_sample[0]),
            tokens(self.microbatches),
            rows,
            columns,
            tokens(self.microbatches[passing & self.needs_dx]),
            _runs_within(columns.indices, trained),
            masks,
            copies_trained=is_mlp and bool(trained.any() and not trained.all()),
        )
        counting = np.asarray((cells != Operation.SHORTCUT).any(axis=0))
        chosen = (self.microbatches[which] for which in (counting, passing, training))
        return _Placed(lane, *(tokens(own) for own in chosen))


def _runs_within(held: np.ndarray, chosen: np.ndarray) -> tuple[tuple[Run, Run], ...]:
    """Runs of those chosen of some units: as they are held, int, and as they are counted here."""
    runs = index_runs(held[chosen])
    first = np.searchsorted(held, [start for start, _ in runs]).tolist()
    return tuple(
        (run, (start, start + run[1] - run[0])) for run, start in zip(runs, first, strict=True)
    )


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
    return [
        _Part(cells[:, own], group.trained, microbatches[own], needed[own])
        for own in apart
        if own.any()
    ]


def _sublayer(
    groups: Sequence[_Placed], num_tokens: int, rows: Units, columns: Units
) -> SublayerLanes:
    """`rows` and `columns` are all of the weights held."""
    backward = _in_order([one.lane for one in groups if one.passes], columns)
    forward_only = [one.lane for one in groups if not one.passes]
    written = [
        run
        for lane in backward
        for (run, _), is_first in zip(lane.trained, lane.is_first, strict=True)
        if is_first
    ]
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
    for lane in sorted(lanes, key=lambda lane: -lane.trained_columns.in_weight.number):
        runs = lane.trained_columns.in_weight.runs
        made.append(replace(lane, is_first=tuple(not written[slice(*run)].any() for run in runs)))
        for run in runs:
            written[slice(*run)] = True
    return made


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
