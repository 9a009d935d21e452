"""What may be added to the backward pass of lane groups: unbiased gradients, scores at no pass.

Both change nothing where every operation is FULL: scales are 1, and watching only reads.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from d2ft_sched.operations import Operation
from d2ft_sched.workload import Workload
from runtime.lane_slices import BlockLanes, LaneSlice, ScheduleSlices, SublayerLanes

SliceHook = Callable[[LaneSlice, "Place"], LaneSlice]
"""From a FULL group to the same with something added."""


@dataclass(frozen=True)
class Place:
    """Where a lane group is.

    Attributes:
        block: index of its block.
        sublayer: "attention" or "mlp".
        samples: of the mini-batch, int ``[own B]``.
    """

    block: int
    sublayer: str
    samples: np.ndarray


def hooked(slices: ScheduleSlices, workload: Workload, hook: SliceHook) -> ScheduleSlices:
    """The same schedule with `hook` applied to every FULL group of a model that is whole here."""
    num_tokens = workload.shape.num_tokens

    def sublayer(lanes: SublayerLanes, block: int, name: str, first: int) -> SublayerLanes:
        full = tuple(
            hook(
                group,
                Place(
                    block,
                    name,
                    np.concatenate(
                        [
                            first + np.arange(start // num_tokens, stop // num_tokens)
                            for start, stop in group.tokens
                        ]
                    ),
                ),
            )
            for group in lanes.full
        )
        return replace(lanes, full=full)

    waves = tuple(
        replace(
            wave,
            blocks=tuple(
                BlockLanes(
                    sublayer(lanes.attention, block, "attention", wave.samples.start),
                    sublayer(lanes.mlp, block, "mlp", wave.samples.start),
                )
                for block, lanes in enumerate(wave.blocks)
            ),
        )
        for wave in slices.waves
    )
    return replace(slices, waves=waves)


def rescaled(slices: ScheduleSlices, workload: Workload, schedule: np.ndarray) -> ScheduleSlices:
    """Gradients of each subnet's kept backward paths times the inverse share of samples kept.

    Where the samples that a subnet trains on are drawn at random and it runs forward on the others,
    its part of a gradient is then that of the dense step in expectation. Adam undoes a scale that
    all gradients of a parameter share; what remains is the scale between heads, and to the trunk.

    Args:
        slices: of the schedule.
        workload: subnets and micro-batches.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    kept = (np.asarray(schedule) == Operation.FULL) @ workload.samples
    factor = workload.samples.sum() / np.maximum(kept, 1)

    def scale(group: LaneSlice, place: Place) -> LaneSlice:
        own = factor[columns_to_subnets(workload, group, place)]
        if (own == own[0]).all():
            return group if own[0] == 1 else replace(group, gradient_scale=float(own[0]))
        return replace(group, gradient_scale=torch.from_numpy(own.astype(np.float32)))

    return hooked(slices, workload, scale)


def columns_to_subnets(workload: Workload, group: LaneSlice, place: Place) -> np.ndarray:
    """The subnet of each of a group's columns, int ``[c]``."""
    width = workload.shape.head_dim if place.sublayer == "attention" else 1
    size = workload.shape.num_heads if place.sublayer == "attention" else workload.shape.mlp_hidden
    owner = np.full(size, -1)
    for index, subnet in enumerate(workload.partition.subnets):
        if subnet.block == place.block:
            if place.sublayer == "attention":
                owner[list(subnet.heads)] = index
            else:
                owner[subnet.hidden_start : subnet.hidden_stop] = index
    columns = np.concatenate([np.arange(*run) for run in group.columns.runs])
    return owner[columns // width]


class TaylorWatch:
    """`runtime.score_kinds.taylor` of every FULL operation of a step, from its own backward pass.

    What it reads is at hand in that pass, so it costs one product per activation and no FLOPs of a
    matrix. Values of samples are those of their own losses, whatever the mini-batch's mean.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        shape = (workload.num_subnets, int(workload.samples.sum()))
        self._total: Tensor = torch.zeros(shape)

    def hook(self, group: LaneSlice, place: Place) -> LaneSlice:
        """For `hooked`."""
        subnets = torch.from_numpy(columns_to_subnets(self._workload, group, place))
        samples = torch.from_numpy(place.samples)
        head_dim = self._workload.shape.head_dim if place.sublayer == "attention" else None

        def watch(result: Tensor, grad_result: Tensor) -> None:
            by_column = (result * grad_result).unflatten(0, (len(samples), -1)).sum(1).float().cpu()
            owner = subnets
            if head_dim is not None:
                by_column = by_column.unflatten(1, (-1, head_dim)).sum(2).abs()
                owner = subnets[::head_dim]
            own = torch.zeros(len(self._total), len(samples))
            own.index_add_(0, owner, by_column.t())
            self._total.index_add_(1, samples, own.abs())

        return replace(group, watch=watch)

    def take(self, schedule: np.ndarray) -> np.ndarray:
        """Means over samples, NaN where the operation was not FULL; begins anew.

        Args:
            schedule: that was run, int ``[num_subnets, num_microbatches]``.

        Returns:
            float ``[num_subnets, num_microbatches]``.
        """
        workload = self._workload
        starts = np.cumsum([0, *workload.microbatch_samples[:-1]])
        sums = np.add.reduceat(self._total.double().numpy(), starts, axis=1)
        self._total.zero_()
        means = sums * workload.samples.sum() / workload.samples
        return np.where(np.asarray(schedule) == Operation.FULL, means, np.nan)
