"""What may be added to the backward pass of lane groups: unbiased gradients, scores at no pass.

Both change nothing where every operation is FULL: scales are 1, and watching only reads. REST is
scaled and watched as FULL is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from d2ft_sched.costs.input_gradients import needs_input_gradient
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation, runs_backward
from d2ft_sched.schedule.waves import running_microbatches
from runtime.lanes.held_units import HeldUnits, all_units
from runtime.lanes.slices import BlockLanes, LaneSlice, ScheduleSlices, SublayerLanes
from runtime.lanes.units import Run
from runtime.ranks.rank_slices import RankSlices

SliceHook = Callable[[LaneSlice, "Place"], LaneSlice]
"""From a group that runs backward to the same with something added."""


@dataclass(frozen=True)
class Place:
    """Where a lane group is.

    Attributes:
        block: index of its block.
        sublayer: "attention" or "mlp".
        samples: of the mini-batch, int ``[own B]``.
        held: heads and hidden units of the block that are here.
    """

    block: int
    sublayer: str
    samples: np.ndarray
    held: HeldUnits


def hooked(slices: ScheduleSlices, workload: Workload, hook: SliceHook) -> ScheduleSlices:
    """The same schedule with `hook` applied to all backward of a model that is whole here."""
    held = all_units(workload)
    waves = []
    for wave in slices.waves:
        samples = np.concatenate([np.arange(*run) for run in wave.samples])
        blocks = tuple(
            _hooked_block(lanes, block, samples, held, workload, hook)
            for block, lanes in enumerate(wave.blocks)
        )
        waves.append(replace(wave, blocks=blocks))
    return replace(slices, waves=tuple(waves))


def hooked_rank(
    slices: RankSlices, workload: Workload, held: Sequence[HeldUnits], hook: SliceHook
) -> RankSlices:
    """The same on a rank that holds these heads and hidden units of every block."""
    num_tokens = workload.shape.num_tokens
    waves = []
    for wave in slices.waves:
        blocks = []
        for index, block in enumerate(wave.blocks):
            samples = _samples(block.lane_tokens, num_tokens)
            lanes = _hooked_block(block.lanes, index, samples, held[index], workload, hook)
            blocks.append(replace(block, lanes=lanes))
        waves.append(replace(wave, blocks=tuple(blocks)))
    return replace(slices, waves=tuple(waves))


def _hooked_block(
    lanes: BlockLanes,
    block: int,
    samples: np.ndarray,
    held: HeldUnits,
    workload: Workload,
    hook: SliceHook,
) -> BlockLanes:
    """`samples` are those of the mini-batch that the lanes have, in order."""
    num_tokens = workload.shape.num_tokens

    def sublayer(part: SublayerLanes, name: str) -> SublayerLanes:
        backward = tuple(
            hook(group, Place(block, name, samples[_samples(group.tokens, num_tokens)], held))
            for group in part.backward
        )
        return replace(part, backward=backward)

    return BlockLanes(sublayer(lanes.attention, "attention"), sublayer(lanes.mlp, "mlp"))


def _samples(runs: tuple[Run, ...], num_tokens: int) -> np.ndarray:
    """Of runs of tokens, int, in order."""
    parts = [np.arange(start // num_tokens, stop // num_tokens) for start, stop in runs]
    return np.concatenate(parts) if parts else np.array([], dtype=np.int64)


def rescaled(
    slices: ScheduleSlices, workload: Workload, schedule: np.ndarray, device: torch.device
) -> ScheduleSlices:
    """Gradients of each subnet's kept backward paths times the inverse share of samples kept.

    Where the samples that a subnet trains on are drawn at random and it runs forward on the others,
    its part of a gradient is then that of the dense step in expectation. Adam undoes a scale that
    all gradients of a parameter share; what remains is the scale between heads, and to the trunk.

    Args:
        slices: of the schedule.
        workload: subnets and micro-batches.
        schedule: int ``[num_subnets, num_microbatches]``.
        device: that the lanes run on.
    """
    kept = runs_backward(np.asarray(schedule)) @ workload.samples
    factor = workload.samples.sum() / np.maximum(kept, 1)

    def scale(group: LaneSlice, place: Place) -> LaneSlice:
        own = factor[columns_to_subnets(workload, group, place)]
        if (own == own[0]).all():
            return group if own[0] == 1 else replace(group, gradient_scale=float(own[0]))
        scales = torch.from_numpy(own.astype(np.float32)).to(device, non_blocking=True)
        return replace(group, gradient_scale=scales)

    return hooked(slices, workload, scale)


def columns_to_subnets(workload: Workload, group: LaneSlice, place: Place) -> np.ndarray:
    """The subnet of each of a group's columns, int ``[c]``."""
    is_attention = place.sublayer == "attention"
    held = place.held.heads if is_attention else place.held.hidden
    unit = np.repeat(held[group.columns.indices], group.columns.parts[0])
    owner = np.full(workload.shape.num_heads if is_attention else workload.shape.mlp_hidden, -1)
    for index, subnet in enumerate(workload.partition.subnets):
        if subnet.block == place.block:
            if is_attention:
                owner[list(subnet.heads)] = index
            else:
                owner[subnet.hidden_start : subnet.hidden_stop] = index
    return owner[unit]


class TaylorWatch:
    """`runtime.scoring.score_kinds.taylor` of FULL and REST operations of a step, from its own
    backward.

    What it reads is at hand in that pass, so it costs one product per activation and no FLOPs of a
    matrix; REST keeps its results for it. Values of samples are those of their own losses, whatever
    the mini-batch's mean.
    """

    def __init__(self, workload: Workload, device: torch.device) -> None:
        """Watch lanes on `device`."""
        self._workload, self._device = workload, device
        shape = (workload.num_subnets, int(workload.samples.sum()))
        self._total: Tensor = torch.zeros(shape, device=device)

    def hook(self, group: LaneSlice, place: Place) -> LaneSlice:
        """For `hooked` and `hooked_rank`."""
        subnets = torch.from_numpy(columns_to_subnets(self._workload, group, place))
        samples = torch.from_numpy(place.samples).to(self._device)
        size = group.columns.parts[0]
        owner = subnets[::size].to(self._device)

        def watch(result: Tensor, grad_result: Tensor) -> None:
            by_unit = (result * grad_result).unflatten(0, (len(samples), -1)).sum(1).float()
            if place.sublayer == "attention":
                by_unit = by_unit.unflatten(1, (-1, size)).sum(2).abs()
            own = self._total.new_zeros(len(self._total), len(samples))
            own.index_add_(0, owner, by_unit.t())
            self._total.index_add_(1, samples, own.abs())

        return replace(group, watch=watch)

    def take(self, schedule: np.ndarray) -> np.ndarray:
        """Means over samples of a step, float ``[num_subnets, num_microbatches]``; 0 where no
        gradient has passed here.

        Args:
            schedule: of the step, the only one since it was asked last.
        """
        workload = self._workload
        starts = np.cumsum([0, *workload.microbatch_samples[:-1]])
        sums = np.add.reduceat(self._total.double().cpu().numpy(), starts, axis=1)
        self._total.zero_()
        num_running = workload.samples[running_microbatches(schedule)].sum()
        return sums * num_running / workload.samples


def where_seen(seen: np.ndarray, workload: Workload, schedule: np.ndarray) -> np.ndarray:
    """What was seen, NaN where no gradient has passed: at all but FULL, and REST that hands one on.

    Args:
        seen: as `TaylorWatch.take` gives it.
        workload: subnets, and what trains.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    schedule = np.asarray(schedule)
    handed_on = np.all(needs_input_gradient(workload, schedule), axis=1)[workload.partition.block]
    passed = (schedule == Operation.FULL) | ((schedule == Operation.REST) & handed_on)
    return np.where(passed, seen, np.nan)
