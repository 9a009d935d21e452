"""Seconds of training steps on this device, side by side."""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from d2ft_sched.cluster.device import Device
from d2ft_sched.model.workload import Workload
from runtime.captured_step import RUNS_BEFORE, FixedStep
from runtime.families.known_families import family_of
from runtime.lanes.slice_schedule import slice_schedule
from runtime.lanes.slices import ScheduleSlices
from runtime.models.optimizers import create_optimizer
from runtime.partitioned_step import forward_backward
from runtime.ranks.shards import whole_shards
from runtime.torch_device import Stopwatch, assumed_device, autocast
from runtime.training.resting_rows import Resting, resting, update


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of one training step.

    Attributes:
        step_s: median of a step.
        step_spread_s: distance between the quartiles of the repeats.
        forward_s, backward_s, optimizer_s: medians of its parts; nan for the first two where the
            step is recorded, and replayed as one.
        num_repeats: steps timed.
    """

    step_s: float
    step_spread_s: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    num_repeats: int


class StepsSideBySide:
    """Steps of a model under several schedules, ready to run.

    Attributes:
        names: of the schedules.
        inputs, labels: a random mini-batch, the same every time.
        optimizer: with its state, at rate 0.
        slices: by name; None for the untouched model.
    """

    def __init__(
        self,
        model: nn.Module,
        workload: Workload,
        schedules: Mapping[str, np.ndarray | None],
        device: torch.device,
        *,
        num_waves: int = 1,
        recomputes: bool = False,
        costs: Device | None = None,
        captures: bool = False,
    ) -> None:
        """Arguments as of `runtime.measure.step_times.measure_steps`; and whether schedules are
        recorded where the device can, as `runtime.captured_step` does in training."""
        costs = costs or assumed_device(device)
        self.names = tuple(schedules)
        self.inputs, self.labels = random_batch(model, workload, device)
        self.optimizer = create_optimizer(model, workload.optimizer, lr=0.0)
        begin_state(self.optimizer)
        self.slices: dict[str, ScheduleSlices | None] = {
            name: None
            if schedule is None
            else slice_schedule(workload, schedule, num_waves, costs, recomputes=recomputes)
            for name, schedule in schedules.items()
        }
        shards = whole_shards(model)
        self._rests = {
            name: Resting() if schedule is None else resting(model, shards, workload, schedule)
            for name, schedule in schedules.items()
        }
        self._model, self._workload, self._device = model, workload, device
        self._captured = {
            name: FixedStep(model, partial(_plain, model, slices))
            for name, slices in self.slices.items()
            if captures and slices is not None
        }

    def run(self, name: str, watch: Stopwatch | None = None) -> None:
        """One step; it leaves no gradients behind. Laps are added to `watch`."""
        if watch is not None:
            watch.lap("start")
        with autocast(self._device, self._workload):
            if name in self._captured:
                self._captured[name](self.inputs, self.labels, may_capture=True)
            else:
                _gradients(self._model, self.inputs, self.labels, self.slices[name], watch)
        if watch is not None:
            watch.lap("gradients")
        update(self.optimizer, self._rests[name])
        self.optimizer.zero_grad()
        if watch is not None:
            watch.lap("optimizer")

    def timed(
        self,
        num_repeats: int,
        progress: Callable[[int, int], None] | None = None,
        before_round: Callable[[], None] = lambda: None,
    ) -> dict[str, StepSeconds]:
        """Seconds of all steps, in turns, so that a busy moment falls on all.

        Args:
            num_repeats: timed steps of each, after one that is not, or several that record it.
            progress: told how many of how many steps are done.
            before_round: called before each round of them; for what else is to be measured
                in turns with them.
        """
        num_before = RUNS_BEFORE + 1 if self._captured else 1
        total, done = len(self.names) * (num_before + num_repeats), 0
        laps: dict[str, list[dict[str, float]]] = {name: [] for name in self.names}
        for round_ in range(num_before + num_repeats):
            before_round()
            for name in self.names:
                watch = Stopwatch(self._device)
                self.run(name, watch)
                if round_ >= num_before:
                    laps[name].append(watch.seconds())
                done += 1
                if progress is not None:
                    progress(done, total)
        return {name: _median_seconds(laps[name]) for name in self.names}


def _median_seconds(laps: list[dict[str, float]]) -> StepSeconds:
    seconds = [sum(parts.values()) for parts in laps]
    quartiles = np.percentile(seconds, [25, 75])
    forward_s, backward_s, optimizer_s = (
        statistics.median(parts.get(part, math.nan) for parts in laps)
        for part in ("forward", "backward", "optimizer")
    )
    return StepSeconds(
        step_s=statistics.median(seconds),
        step_spread_s=float(quartiles[1] - quartiles[0]),
        forward_s=forward_s,
        backward_s=backward_s,
        optimizer_s=optimizer_s,
        num_repeats=len(laps),
    )


def _plain(model: nn.Module, slices: ScheduleSlices, inputs: Tensor, labels: Tensor) -> Tensor:
    return forward_backward(model, inputs, labels, slices)


def begin_state(optimizer: torch.optim.Optimizer) -> None:
    """Let it keep what it does in training, also for what no schedule trains here; rate 0."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def random_batch(
    model: nn.Module, workload: Workload, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a whole mini-batch, the same every time."""
    generator = torch.Generator().manual_seed(0)
    num_samples = int(workload.samples.sum())
    family = family_of(model)
    inputs = family.random_inputs(model, num_samples, generator)
    labels = family.random_labels(model, inputs, generator)
    return inputs.to(device), labels.to(device)


def untouched_loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of a mini-batch, by the forward pass of the model's own library."""
    family = family_of(model)
    total = family.loss(model, family.whole_features(model, inputs), labels)
    return total / family.num_counted(labels).sum()


def _gradients(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    slices: ScheduleSlices | None,
    watch: Stopwatch | None,
) -> None:
    if slices is not None:
        forward_backward(model, inputs, labels, slices, watch)
        return
    loss = untouched_loss(model, inputs, labels)
    if watch is not None:
        watch.lap("forward")
    loss.backward()
    if watch is not None:
        watch.lap("backward")
