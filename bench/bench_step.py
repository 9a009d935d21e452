"""Step time under plans against plain timm and against the dense plan, side by side.

ViT-S/14 at 112 pixels, mini-batch of 5 micro-batches of 16, AdamW; subnets of one head, and then
random plans of subnets of more heads. All steps of a round run one after another, so that a busy
machine slows them alike; medians over the rounds.
"""

from collections.abc import Mapping

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from d2ft_sched.errors import InputError
from d2ft_sched.flops import step_flops
from d2ft_sched.model_shape import ModelShape
from d2ft_sched.operations import Operation
from d2ft_sched.partition import partition_by_heads
from d2ft_sched.schedule import uniform_schedule
from d2ft_sched.workload import Workload
from runtime.device import device_name, prepare_process, select_device
from runtime.families.focus_weights import FOCUS_MODEL, FOCUS_WEIGHTS
from runtime.measure import StepMeasurement, measure_steps
from runtime.models import build_model, shape_of

IMAGE_SIZE = 112
MICROBATCHES = (16,) * 5
NUM_REPEATS = 5
RANDOM_SHARES = ((0.2, 0.3), (0.4, 0.0), (0.4, 0.3), (0.6, 0.0), (0.7, 0.2))
"""Of operations: FULL and FORWARD_ONLY."""
TARGET_HALF, TARGET_DENSE, TARGET_RANDOM = 0.58, 1.05, 1.10


def main() -> None:
    prepare_process()
    device = select_device()
    try:
        model = build_model(FOCUS_MODEL, image_size=IMAGE_SIZE, weights=FOCUS_WEIGHTS)
        kind = "pretrained"
    except InputError as error:
        print(f"{error}\nrandom weights are measured instead")
        model, kind = build_model(FOCUS_MODEL, image_size=IMAGE_SIZE), "random"
    shape = shape_of(model)
    workload = Workload(shape, partition_by_heads(shape, 1), MICROBATCHES)
    model = model.to(device)
    steps = measure_steps(
        model,
        workload,
        {"plain timm": None, **_random_schedules(workload), **_whole_microbatches(workload)},
        device,
        num_repeats=NUM_REPEATS,
    )
    plain, dense = steps["plain timm"], steps["all FULL"]
    table = Table(
        title=f"{FOCUS_MODEL} ({kind}), {IMAGE_SIZE} px, {device_name(device)}, "
        f"{dense.num_threads} threads",
    )
    for column in ("plan", "FLOPs", "step s", "spread s", "x timm", "x dense", "time / FLOPs"):
        table.add_column(column, justify="left" if column == "plan" else "right")
    for name, step in steps.items():
        table.add_row(
            name,
            f"{step.flops / dense.flops:.3f}",
            f"{step.step_s:.3f}",
            f"{step.step_spread_s:.3f}",
            f"{step.step_s / plain.step_s:.3f}",
            f"{step.step_s / dense.step_s:.3f}",
            f"{_time_over_flops(step, dense):.3f}",
        )
    console = Console(width=110)
    console.print(table)
    half = steps["half FULL, half SHORTCUT"]
    worst = max(_of_random(steps, dense).values())
    _verdict("half FULL / dense", half.step_s / dense.step_s, TARGET_HALF)
    _verdict("all FULL / plain timm", dense.step_s / plain.step_s, TARGET_DENSE)
    _verdict("worst random plan, time ratio / FLOPs ratio", worst, TARGET_RANDOM)
    console.print(_by_heads(model, shape, device))


def _by_heads(model: nn.Module, shape: ModelShape, device: torch.device) -> Table:
    """Time ratio / FLOPs ratio of random plans, by the heads of a subnet."""
    table = Table("heads of a subnet", title="Random plans: FLOPs ratio, time ratio / FLOPs ratio")
    for full, forward_only in RANDOM_SHARES:
        table.add_column(f"{full:.0%} FULL, {forward_only:.0%} forward only", justify="right")
    for num_heads in (n for n in range(1, shape.num_heads + 1) if shape.num_heads % n == 0):
        workload = Workload(shape, partition_by_heads(shape, num_heads), MICROBATCHES)
        steps = measure_steps(model, workload, _random_schedules(workload), device, num_repeats=3)
        dense = steps["all FULL"]
        cells = [
            f"{steps[name].flops / dense.flops:.2f}, {ratio:.3f}"
            for name, ratio in _of_random(steps, dense).items()
        ]
        table.add_row(str(num_heads), *cells)
    return table


def _of_random(steps: Mapping[str, StepMeasurement], dense: StepMeasurement) -> dict[str, float]:
    return {n: _time_over_flops(s, dense) for n, s in steps.items() if n.startswith("random")}


def _time_over_flops(step: StepMeasurement, dense: StepMeasurement) -> float:
    return step.step_s / dense.step_s / (step.flops / dense.flops)


def _random_schedules(workload: Workload) -> dict[str, np.ndarray]:
    """Dense, a random half, and random plans of 30 to 80 % of the dense compute."""
    rng = np.random.default_rng(0)
    num_subnets, num_microbatches = workload.num_subnets, workload.num_microbatches
    dense = uniform_schedule(num_subnets, num_microbatches, Operation.FULL)
    half = rng.permuted(
        np.resize([Operation.FULL, Operation.SHORTCUT], num_subnets * num_microbatches)
    ).reshape(dense.shape)
    schedules = {"all FULL": dense, "half FULL, half SHORTCUT": half}
    for full, forward_only in RANDOM_SHARES:
        shares = (1 - full - forward_only, forward_only, full)
        schedule = rng.choice(3, size=dense.shape, p=shares)
        compute = step_flops(workload, schedule) / step_flops(workload, dense)
        schedules[f"random, {compute:.0%} compute, {forward_only:.0%} forward only"] = schedule
    return schedules


def _whole_microbatches(workload: Workload) -> dict[str, np.ndarray]:
    """Plans in which all subnets drop the same micro-batches."""
    schedules = {}
    for num_full in range(workload.num_microbatches - 1, 1, -1):
        name = f"{num_full} of {workload.num_microbatches} micro-batches in all subnets"
        schedule = uniform_schedule(
            workload.num_subnets, workload.num_microbatches, Operation.SHORTCUT
        )
        schedule[:, :num_full] = Operation.FULL
        schedules[name] = schedule
    return schedules


def _verdict(what: str, value: float, target: float) -> None:
    print(f"{what}: {value:.3f} (target at most {target}) {'ok' if value <= target else 'MISSED'}")


if __name__ == "__main__":
    main()
