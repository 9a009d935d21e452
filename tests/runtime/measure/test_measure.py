"""Measured steps: what was counted, and that nothing was changed by measuring."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.costs.flops import step_flops
from d2ft_sched.costs.memory import device_memory
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.captured_step import RUNS_BEFORE
from runtime.measure.step_times import measure_steps
from runtime.measure.steps_side_by_side import StepsSideBySide
from runtime.torch_device import Stopwatch, device_name, memory_bytes, select_device

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_waves", [1, 2])
def test_schedules_are_measured_side_by_side(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    num_waves: int,
) -> None:
    model = small_vit(torch.float32)
    workload = workload_of(model, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    shortcut = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.SHORTCUT)
    schedules = {"timm": None, "dense": dense, "shortcut": shortcut}
    seen: list[tuple[int, int]] = []
    measured = measure_steps(
        model,
        workload,
        schedules,
        CPU,
        num_waves=num_waves,
        num_repeats=3,
        progress=lambda *counts: seen.append(counts),
    )
    assert list(measured) == list(schedules)
    assert seen == [(n, 12) for n in range(1, 13)]
    assert measured["timm"].flops == measured["dense"].flops == step_flops(workload, dense)
    assert measured["shortcut"].flops == step_flops(workload, shortcut)
    assert measured["shortcut"].peak_memory_bytes < measured["dense"].peak_memory_bytes
    assert measured["shortcut"].activation_bytes < measured["dense"].activation_bytes
    for step in measured.values():
        assert step.num_repeats == 3
        assert step.exchange_bytes == 0
        assert 0 < max(step.forward_s, step.backward_s, step.optimizer_s) < step.step_s
        assert step.step_spread_s >= 0
        assert step.device_type == "cpu"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None for p in model.parameters())


def test_steps_that_are_replayed_are_timed_as_a_whole_after_some_that_are_not(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    model = small_vit(torch.float32)
    workload = workload_of(model, 2)
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    steps = StepsSideBySide(model, workload, {"timm": None, "d": dense}, CPU, captures=True)
    seen: list[tuple[int, int]] = []
    timed = steps.timed(2, lambda *counts: seen.append(counts))
    assert seen[-1] == (2 * (RUNS_BEFORE + 1 + 2),) * 2
    assert math.isnan(timed["d"].forward_s)
    assert 0 < timed["d"].optimizer_s < timed["d"].step_s
    assert 0 < timed["timm"].forward_s < timed["timm"].step_s
    assert all(p.grad is None for p in model.parameters())


def test_lanes_keep_half_the_bytes_in_bfloat16(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    model = small_vit(torch.float32)
    workload = workload_of(model, 3)
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    shortcut = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.SHORTCUT)
    placement = place_round_robin(workload.partition, workload.num_microbatches, 1)
    kept, predicted = [], []
    for element_bytes in (4, 2):
        sized = replace(workload, element_bytes=element_bytes)
        steps = measure_steps(model, sized, {"d": dense, "s": shortcut}, CPU, num_repeats=1)
        assert steps["d"].flops == step_flops(workload, dense)
        kept.append(steps["d"].activation_bytes - steps["s"].activation_bytes)
        both = [
            device_memory(sized, Replica(placement), s).activations[0] for s in (dense, shortcut)
        ]
        predicted.append(both[0] - both[1])
    assert kept == pytest.approx(predicted, rel=0.05)
    assert kept[1] < 0.7 * kept[0]


def test_devices_by_name() -> None:
    assert select_device("cpu") == CPU
    assert select_device("auto").type in ("cpu", "cuda")
    with pytest.raises(InputError, match="device is 'tpu'; it must be auto, cpu, cuda or cuda:N"):
        select_device("tpu")
    with pytest.raises(InputError, match="device 'cuda:99' is not there"):
        select_device("cuda:99")
    assert device_name(CPU)
    assert memory_bytes(CPU) > 0


def test_stopwatch_adds_up_laps_of_one_name() -> None:
    watch = Stopwatch(CPU)
    for name in ("start", "a", "b", "a"):
        watch.lap(name)
    seconds = watch.seconds()
    assert set(seconds) == {"a", "b"}
    assert min(seconds.values()) >= 0
