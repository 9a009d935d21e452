"""Measuring a device: seconds of lanes, trunk and optimizer over their size.

Sizes are measured in turns, round after round, so that a busy moment falls on all of them.
The lanes of several blocks are timed one after another, as in a step, so that weights come from
memory and not from a cache that one block alone would fill; what a block costs without any lane is
subtracted, since the trunk includes it. That is timed by steps in which lanes hand on what they are
given, with all norms and residual sums, and by steps in which every operation is SHORTCUT.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor, nn

from d2ft_sched.cluster.compute_curve import ComputeCurve, WorkKind
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.flops import attention_flops, mlp_flops
from d2ft_sched.costs.lanes.lane_seconds import KERNELS_OF_A_LAUNCH
from d2ft_sched.costs.memory_traffic import optimizer_bytes_moved, trunk_bytes_moved
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.families.known_families import family_of
from runtime.families.sublayer import Sublayer
from runtime.lanes.slice_schedule import slice_schedule
from runtime.lanes.slices import SublayerLanes, Wave
from runtime.measure.kernel_seconds import kernel_seconds
from runtime.measure.processor_quota import quota_period_s
from runtime.measure.trunk_pass import run_trunk
from runtime.models.optimizers import create_optimizer
from runtime.partitioned_step import run_lanes
from runtime.torch_device import Stopwatch, autocast, device_name, memory_bytes

NUM_TIMED_BLOCKS = 4
"""Blocks whose lanes are timed together; their weights do not fit a processor's cache."""

LEAST_SAMPLE_S, LONGEST_LEAST_S = 0.03, 0.5
"""Small work is repeated for as long in every sample, or for `NUM_PERIODS` of a quota where those
are longer, but for no more than the second."""

NUM_PERIODS = 20
"""Of a quota of processor time in a sample, so that the device is seen at its mean speed: where in
a period work begins and ends makes a difference of up to one period."""

Points = dict[float, list[float]]
"""Measured seconds by size of work."""


def largest_timed(workload: Workload) -> np.ndarray:
    """The schedule that needs most memory of what is timed: a pass through the trunk with the lanes
    of as many blocks as are timed together, int ``[num_subnets, num_microbatches]``."""
    timed = workload.partition.block < NUM_TIMED_BLOCKS
    operations = np.where(timed, Operation.FULL, Operation.SHORTCUT)
    return np.repeat(operations[:, None], workload.num_microbatches, axis=1)


class DeviceProfile:
    """Seconds of all sizes of work that a workload's schedules can ask of a device, in rounds.

    More rounds may follow at any time, such as in turns with steps that are held against it.

    Attributes:
        num_sizes: how many a round measures.
    """

    def __init__(
        self, model: nn.Module, workload: Workload, device: torch.device, name: str = "this-device"
    ) -> None:
        """What `profile_device` describes, with nothing measured yet."""
        generator = torch.Generator().manual_seed(0)
        inputs = family_of(model).random_inputs(model, int(workload.samples.sum()), generator)
        inputs = inputs.to(device)
        least_s = max(LEAST_SAMPLE_S, min(NUM_PERIODS * quota_period_s(), LONGEST_LEAST_S))
        self._timings = [
            *_lane_timings(model, workload, inputs, least_s),
            *_trunk_timings(model, workload, inputs, least_s),
            *_optimizer_timings(model, workload),
        ]
        self._samples: list[list[np.ndarray]] = [[] for _ in self._timings]
        self._is_warm = False
        self._workload, self._device, self._name = workload, device, name
        self.num_sizes = len(self._timings)

    def run_round(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """Measure every size once; `progress` is told the number of those that are done.

        The first round does not count.
        """
        with autocast(self._device, self._workload):
            for number, timing in enumerate(self._timings):
                seconds = next(timing.samples)
                if self._is_warm:
                    self._samples[number].append(seconds)
                progress(number + 1)
        self._is_warm = True

    def device(self) -> Device:
        """The device that the medians of the rounds so far describe.

        Returns:
            A device with a curve for every kind of work; its plain rates are those of the largest
            size, and its launch is that of kernels which copy and mask.
        """
        points: dict[WorkKind, Points] = defaultdict(lambda: defaultdict(list))
        for timing, own in zip(self._timings, self._samples, strict=True):
            medians = np.median(own, axis=0)
            for kind, work, seconds in zip(timing.kinds, timing.work, medians, strict=True):
                points[kind][work].append(float(seconds))
        curves = {kind: monotone_curve(points[kind]) for kind in WorkKind}
        shape, num_rounds = self._workload.shape, len(self._samples[0])
        return Device(
            name=self._name,
            compute_flops_per_s=_largest_rate(curves[WorkKind.MLP_BACKWARD]),
            memory_bytes=memory_bytes(self._device),
            memory_bandwidth_bytes_per_s=_largest_rate(curves[WorkKind.TRUNK_FORWARD]),
            launch_s=KERNELS_OF_A_LAUNCH * kernel_seconds(self._device, num_rounds),
            curves=curves,
            source=f"d2ft profile of {shape.name} on {device_name(self._device)}",
            precision=self._workload.precision,
        )


def profile_device(
    model: nn.Module,
    workload: Workload,
    device: torch.device,
    *,
    name: str = "this-device",
    num_repeats: int = 5,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Device:
    """Time this device on the sizes of work that a workload's schedules can ask for.

    Args:
        model: on the device; its parameters are left as they are.
        workload: its subnets and mini-batch.
        device: where the model is.
        name: of the result.
        num_repeats: measurements of each size; their median counts.
        progress: called with the number of sizes done and to do.

    Returns:
        As `DeviceProfile.device`.
    """
    profile = DeviceProfile(model, workload, device, name)
    total = (num_repeats + 1) * profile.num_sizes
    progress(0, total)
    for before in range(0, total, profile.num_sizes):
        profile.run_round(partial(_tell_after, progress, before, total))
    return profile.device()


def _tell_after(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def monotone_curve(points: Points) -> ComputeCurve:
    """The non-decreasing curve nearest to the medians (isotonic regression)."""
    work = sorted(points)
    medians = np.array([float(np.median(points[w])) for w in work])
    seconds = np.maximum(isotonic_regression(medians).x, 1e-9)
    return ComputeCurve(tuple(work), tuple(seconds.tolist()))


def _largest_rate(curve: ComputeCurve) -> float:
    return curve.work[-1] / curve.seconds[-1]


def _rectangles(workload: Workload) -> Iterator[tuple[int, int]]:
    """Numbers of subnets of a block and of micro-batches: all corners and a spread between."""
    num_subnets = len(workload.partition.of_block(0))
    members = sorted({1, -(-num_subnets // 3), -(-num_subnets // 2), num_subnets})
    microbatches = sorted({1, -(-workload.num_microbatches // 2), workload.num_microbatches})
    return ((s, m) for s in members for m in microbatches)


@dataclass(frozen=True)
class _Timing:
    """Work of one size.

    Attributes:
        kinds: of its forward and of its backward, or the one that it is.
        work: how much of each.
        samples: seconds of each, float ``[num_kinds]``, measured whenever they are asked for; the
            first do not count.
    """

    kinds: tuple[WorkKind, ...]
    work: tuple[float, ...]
    samples: Iterator[np.ndarray]


def _lane_timings(
    model: nn.Module, workload: Workload, inputs: Tensor, least_s: float
) -> Iterator[_Timing]:
    blocks = family_of(model).blocks(model)[:NUM_TIMED_BLOCKS]
    size = (len(inputs), workload.shape.num_tokens, workload.shape.width)
    dtype = next(model.parameters()).dtype
    every = torch.randn((2, *size), device=inputs.device, dtype=dtype)
    for num_members, num_microbatches in _rectangles(workload):
        part = replace(workload, microbatch_samples=workload.microbatch_samples[:num_microbatches])
        num_samples = int(part.samples.sum())
        x, grad = every[0, :num_samples].requires_grad_(), every[1, :num_samples]
        key_mask = family_of(model).key_mask(model, inputs[:num_samples])
        schedule = np.zeros((part.num_subnets, num_microbatches), dtype=np.int8)
        empty = slice_schedule(part, schedule).waves[0]
        members = part.partition.of_block(0)[:num_members]
        for block in range(len(blocks)):
            schedule[part.partition.of_block(block)[:num_members]] = Operation.FULL
        wave = slice_schedule(part, schedule).waves[0]
        for is_mlp, flops, kinds in (
            (
                False,
                attention_flops(part),
                (WorkKind.ATTENTION_FORWARD, WorkKind.ATTENTION_BACKWARD),
            ),
            (True, mlp_flops(part), (WorkKind.MLP_FORWARD, WorkKind.MLP_BACKWARD)),
        ):
            sublayers = [block[is_mlp] for block in blocks]
            run_busy, run_idle = (
                partial(_run_sublayers, sublayers, lanes, x, grad, key_mask)
                for lanes in (
                    [own.mlp if is_mlp else own.attention for own in of.blocks]
                    for of in (wave, empty)
                )
            )
            work = float(flops.forward[members].sum()), float(flops.backward[members].sum())
            yield _Timing(kinds, work, _differences(run_busy, run_idle, len(blocks), least_s))


def _differences(
    run_busy: Callable[[int], np.ndarray],
    run_idle: Callable[[int], np.ndarray],
    num_blocks: int,
    least_s: float,
) -> Iterator[np.ndarray]:
    """Seconds of a block's lanes, without what it takes with none."""
    num_runs = 1
    while True:
        busy = run_busy(num_runs)
        yield (busy - run_idle(num_runs)) / num_blocks
        num_runs = max(1, math.ceil(least_s / busy.sum()))


def _run_sublayers(
    sublayers: Sequence[Sublayer],
    lanes: Sequence[SublayerLanes],
    x: Tensor,
    grad: Tensor,
    key_mask: Tensor | None,
    num_runs: int,
) -> np.ndarray:
    """Seconds of forward and backward of one sub-layer in all the blocks, mean of some runs."""
    watch = Stopwatch(x.device)
    watch.lap("start")
    for _ in range(num_runs):
        outputs = [
            run_lanes(sublayer, own, x, key_mask)
            for sublayer, own in zip(sublayers, lanes, strict=False)
        ]
        watch.lap("forward")
        for sublayer, out in zip(sublayers, outputs, strict=True):
            torch.autograd.grad(out, [x, *sublayer.parameters()], grad, allow_unused=True)
        watch.lap("backward")
    return np.array(_both(watch)) / num_runs


def _both(watch: Stopwatch) -> list[float]:
    seconds = watch.seconds()
    return [seconds["forward"], seconds["backward"]]


def _trunk_timings(
    model: nn.Module, workload: Workload, inputs: Tensor, least_s: float
) -> Iterator[_Timing]:
    kinds = WorkKind.TRUNK_FORWARD, WorkKind.TRUNK_BACKWARD
    for num_microbatches in range(1, workload.num_microbatches + 1):
        part = replace(workload, microbatch_samples=workload.microbatch_samples[:num_microbatches])
        own = inputs[: int(part.samples.sum())]
        labels = family_of(model).random_labels(model, own.cpu(), torch.Generator()).to(own.device)
        for operation, num_running in (
            (Operation.SHORTCUT, 0),
            (Operation.FULL, part.shape.num_blocks),
        ):
            schedule = uniform_schedule(part.num_subnets, num_microbatches, operation)
            wave = slice_schedule(part, schedule).waves[0]
            moved = trunk_bytes_moved(part, np.full(num_microbatches, num_running))
            work = float(moved.forward.sum()), float(moved.backward.sum())
            yield _Timing(kinds, work, _trunk_samples(model, own, labels, wave, least_s))


def _trunk_samples(
    model: nn.Module, inputs: Tensor, labels: Tensor, wave: Wave, least_s: float
) -> Iterator[np.ndarray]:
    num_runs = 1
    while True:
        watch = Stopwatch(inputs.device)
        for _ in range(num_runs):
            run_trunk(model, inputs, labels, wave, watch)
        seconds = np.array(_both(watch)) / num_runs
        yield seconds
        num_runs = max(1, math.ceil(least_s / seconds.sum()))


def _optimizer_timings(model: nn.Module, workload: Workload) -> Iterator[_Timing]:
    """The update of one block's parameters and of all, on copies."""
    placement = place_round_robin(workload.partition, workload.num_microbatches, 1)
    all_bytes = float(optimizer_bytes_moved(workload, placement)[0])
    every = list(model.parameters())
    one_block = [p for own in family_of(model).blocks(model)[0] for p in own.parameters()]
    num_all = sum(p.numel() for p in every)
    for part in (one_block, every):
        work = all_bytes * sum(p.numel() for p in part) / num_all
        yield _Timing((WorkKind.OPTIMIZER,), (work,), _optimizer_samples(part, workload))


def _optimizer_samples(part: Sequence[Tensor], workload: Workload) -> Iterator[np.ndarray]:
    while True:
        copies = nn.ParameterList(p.detach().clone() for p in part)
        for p in copies:
            p.grad = torch.ones_like(p)
        optimizer = create_optimizer(copies, workload.optimizer, lr=1e-6)
        optimizer.step()  # which begins its state
        watch = Stopwatch(copies[0].device)
        watch.lap("start")
        optimizer.step()
        watch.lap("optimizer")
        del copies, optimizer
        yield np.array([watch.seconds()["optimizer"]])
