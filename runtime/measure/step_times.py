"""What a step really costs on this device: seconds, FLOPs and bytes."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.executed_flops import step_wasted_flops
from d2ft_sched.costs.memory import merging_devices
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from runtime.families.known_families import family_of
from runtime.lanes.slice_schedule import slice_schedule
from runtime.lanes.slices import ScheduleSlices
from runtime.measure.flop_counting import count_flops
from runtime.measure.memory_tracking import kept_bytes, peak_memory_bytes
from runtime.models.optimizers import create_optimizer
from runtime.partitioned_step import features, forward_backward
from runtime.ranks.shards import whole_shards
from runtime.torch_device import Stopwatch, assumed_device, autocast, device_name
from runtime.training.resting_rows import Resting, resting, update


@dataclass(frozen=True)
class StepMeasurement:
    """Measured costs of one training step.

    Attributes:
        step_s: median seconds of a step.
        step_spread_s: distance between the quartiles of the repeats.
        forward_s, backward_s, optimizer_s: medians of its parts.
        flops: counted operator by operator, without the optimizer and without `wasted_flops`.
        wasted_flops: that are masked, by `d2ft_sched.costs.executed_flops`.
        peak_memory_bytes: the most that tensors take, parameters and optimizer state included.
        activation_bytes: kept for backward after the fullest forward pass.
        exchange_bytes: sent between devices; there is one.
        num_repeats: steps timed.
        device: the processor's name.
        device_type: ``cpu`` or ``cuda``.
        num_threads: that torch computes with on a CPU.
    """

    step_s: float
    step_spread_s: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    flops: int
    wasted_flops: int
    peak_memory_bytes: int
    activation_bytes: int
    exchange_bytes: int
    num_repeats: int
    device: str
    device_type: str
    num_threads: int


def measure_steps(
    model: nn.Module,
    workload: Workload,
    schedules: Mapping[str, np.ndarray | None],
    device: torch.device,
    *,
    num_waves: int = 1,
    recomputes: bool = False,
    num_repeats: int = 5,
    progress: Callable[[int, int], None] | None = None,
    costs: Device | None = None,
) -> dict[str, StepMeasurement]:
    """Measure several schedules side by side, in turns, so that a busy moment falls on all.

    Args:
        model: on `device`; its parameters stay as they are, its gradients are discarded.
        workload: subnets, micro-batches and optimizer.
        schedules: by name; None is the untouched model.
        device: what to measure.
        num_waves: passes per step.
        recomputes: whether lanes run forward again in backward.
        num_repeats: timed steps of each schedule, after one that is not.
        progress: told how many of how many steps are done.
        costs: what things cost, which says what runs together; default as assumed of `device`.
    """
    costs = costs or assumed_device(device)
    here = Placement(
        1,
        (0,) * workload.num_subnets,
        (0,) * workload.num_microbatches,
        recomputing=(0,) if recomputes else (),
    )
    merging = merging_devices(workload, here, [costs])
    inputs, labels = random_batch(model, workload, device)
    optimizer = create_optimizer(model, workload.optimizer, lr=0.0)
    begin_state(optimizer)
    shards = whole_shards(model)
    slices = {
        name: None
        if schedule is None
        else slice_schedule(workload, schedule, num_waves, costs, recomputes=recomputes)
        for name, schedule in schedules.items()
    }
    rests = {
        name: Resting() if schedule is None else resting(model, shards, workload, schedule)
        for name, schedule in schedules.items()
    }

    def step(name: str, watch: Stopwatch | None = None) -> None:
        if watch is not None:
            watch.lap("start")
        with autocast(device, workload):
            _gradients(model, inputs, labels, slices[name], watch)
        update(optimizer, rests[name])
        optimizer.zero_grad()
        if watch is not None:
            watch.lap("optimizer")

    total, done = len(slices) * (num_repeats + 1), 0
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in slices}
    for repeat in range(num_repeats + 1):
        for name in slices:
            watch = Stopwatch(device)
            step(name, watch)
            if repeat > 0:
                laps[name].append(watch.seconds())
            done += 1
            if progress is not None:
                progress(done, total)

    state = [t for values in optimizer.state.values() for t in values.values()]
    held = [*model.parameters(), *(t for t in state if isinstance(t, Tensor)), inputs, labels]
    measured = {}
    for name in slices:
        seconds = [sum(parts.values()) for parts in laps[name]]
        counted, schedule = count_flops(partial(step, name)), schedules[name]
        wasted = 0
        if schedule is not None:
            wasted = round(step_wasted_flops(workload, here, schedule, num_waves, merging))
        quartiles = np.percentile(seconds, [25, 75])
        measured[name] = StepMeasurement(
            step_s=statistics.median(seconds),
            step_spread_s=float(quartiles[1] - quartiles[0]),
            **{
                f"{part}_s": statistics.median(parts[part] for parts in laps[name])
                for part in ("forward", "backward", "optimizer")
            },
            flops=counted - wasted,
            wasted_flops=wasted,
            peak_memory_bytes=peak_memory_bytes(partial(step, name), held, device),
            activation_bytes=_activation_bytes(
                model, workload, inputs, labels, slices[name], held, device
            ),
            exchange_bytes=0,
            num_repeats=num_repeats,
            device=device_name(device),
            device_type=device.type,
            num_threads=torch.get_num_threads(),
        )
    return measured


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


def _activation_bytes(
    model: nn.Module,
    workload: Workload,
    inputs: Tensor,
    labels: Tensor,
    slices: ScheduleSlices | None,
    held: list[Tensor],
    device: torch.device,
) -> int:
    family = family_of(model)

    def run(wave: int) -> Tensor:
        with autocast(device, workload):
            if slices is None:
                return family.loss(model, family.whole_features(model, inputs), labels)
            own = slices.waves[wave]
            seen = features(model, own.take(inputs), own)
            return family.loss(model, seen, own.take(labels))

    num_waves = 1 if slices is None else len(slices.waves)
    return max(kept_bytes(partial(run, wave), held, device) for wave in range(num_waves))
