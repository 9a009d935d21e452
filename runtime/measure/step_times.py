"""What a step really costs on this device: seconds, FLOPs and bytes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.lanes.executed_flops import step_wasted_flops
from d2ft_sched.costs.memory import merging_devices
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from runtime.families.known_families import family_of
from runtime.lanes.slices import ScheduleSlices
from runtime.measure.flop_counting import count_flops
from runtime.measure.memory_tracking import kept_bytes, peak_memory_bytes
from runtime.measure.steps_side_by_side import StepSeconds, StepsSideBySide
from runtime.partitioned_step import features
from runtime.torch_device import assumed_device, autocast, device_name


@dataclass(frozen=True)
class StepMeasurement(StepSeconds):
    """Measured costs of one training step.

    Attributes:
        flops: counted operator by operator, without the optimizer and without `wasted_flops`.
        wasted_flops: that are masked, by `d2ft_sched.costs.lanes.executed_flops`.
        peak_memory_bytes: the most that tensors take, parameters and optimizer state included.
        activation_bytes: kept for backward after the fullest forward pass.
        exchange_bytes: sent between devices; there is one.
        device: the processor's name.
        device_type: ``cpu`` or ``cuda``.
        num_threads: that torch computes with on a CPU.
    """

    flops: int
    wasted_flops: int
    peak_memory_bytes: int
    activation_bytes: int
    exchange_bytes: int
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
    before_round: Callable[[], None] = lambda: None,
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
        before_round: called before every schedule's step is run once more, such as to profile the
            device in turns with them.
    """
    costs = costs or assumed_device(device)
    steps = StepsSideBySide(
        model,
        workload,
        schedules,
        device,
        num_waves=num_waves,
        recomputes=recomputes,
        costs=costs,
    )
    seconds = steps.timed(num_repeats, progress, before_round)
    here = Placement(
        1,
        (0,) * workload.num_subnets,
        (0,) * workload.num_microbatches,
        recomputing=(0,) if recomputes else (),
    )
    replica, merging = Replica(here, num_waves), merging_devices(workload, here, [costs])
    state = [t for values in steps.optimizer.state.values() for t in values.values()]
    held = [*model.parameters(), *(t for t in state if isinstance(t, Tensor))]
    held += [steps.inputs, steps.labels]
    measured = {}
    for name, schedule in schedules.items():
        run = partial(steps.run, name)
        counted, wasted = count_flops(run), 0
        if schedule is not None:
            wasted = round(step_wasted_flops(workload, replica, schedule, merging))
        measured[name] = StepMeasurement(
            **vars(seconds[name]),
            flops=counted - wasted,
            wasted_flops=wasted,
            peak_memory_bytes=peak_memory_bytes(run, held, device),
            activation_bytes=_activation_bytes(
                model, workload, steps.inputs, steps.labels, steps.slices[name], held, device
            ),
            exchange_bytes=0,
            device=device_name(device),
            device_type=device.type,
            num_threads=torch.get_num_threads(),
        )
    return measured


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
