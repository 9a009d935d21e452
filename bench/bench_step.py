"""Step time under plans against plain timm and against the dense plan, side by side.

By default ViT-S/14 at 112 pixels, mini-batch of 5 micro-batches of 16, AdamW; subnets of one head,
and then random plans of subnets of more heads. All steps of a round run one after another, so that
a busy machine slows them alike; medians over the rounds. Another model, with random weights:
``python -m bench step --model vit_base_patch16_224 --image-size 224``.
"""

import argparse

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from d2ft_sched import (
    InputError,
    ModelShape,
    Operation,
    Workload,
    partition_by_heads,
    uniform_schedule,
)
from d2ft_sched.costs.flops import step_flops
from runtime import (
    StepMeasurement,
    build_model,
    device_name,
    measure_steps,
    select_device,
    shape_of,
    steady_process,
)
from runtime.families.focus_weights import FOCUS_MODEL, FOCUS_WEIGHTS

NUM_MICROBATCHES = 5
RANDOM_SHARES = ((0.2, 0.3), (0.4, 0.0), (0.4, 0.3), (0.6, 0.0), (0.7, 0.2))
"""Of operations: FULL and FORWARD_ONLY."""
PARTS = ("forward", "backward", "optimizer")
COLUMNS = (
    *("plan", "FLOPs", "masked", "step s", "spread s", "x timm", "x dense", "time / FLOPs"),
    *PARTS,
)
"""Masked are FLOPs of cells that are computed besides, since that takes less than another piece;
parts are what each takes of the dense step beyond the plan's share of what it takes there."""
TARGET_HALF, TARGET_DENSE, TARGET_RANDOM = 0.58, 1.05, 1.10


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench_step", description=__doc__)
    parser.add_argument("--model", default=FOCUS_MODEL, help="timm name of a vision transformer")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--microbatch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-heads", action="store_true", help="leave the second table out")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto")
    given = parser.parse_args()
    steady_process()
    device = select_device(given.device)
    model, kind = _model(given.model, given.image_size)
    shape = shape_of(model)
    workload = Workload(
        shape, partition_by_heads(shape, 1), (given.microbatch_size,) * NUM_MICROBATCHES
    )
    model = model.to(device)
    half, random = _random_schedules(workload)
    steps = measure_steps(
        model,
        workload,
        {
            "plain timm": None,
            "all FULL": _microbatches_full(workload, workload.num_microbatches),
            "half FULL, half SHORTCUT": half,
            **random,
            **{
                f"{kept} of {NUM_MICROBATCHES} micro-batches in all subnets": _microbatches_full(
                    workload, kept
                )
                for kept in (4, 3, 2)
            },
        },
        device,
        num_repeats=given.repeats,
    )
    plain, dense = steps["plain timm"], steps["all FULL"]
    table = Table(
        title=f"{given.model} ({kind}), {given.image_size} px, {NUM_MICROBATCHES} micro-batches of "
        f"{given.microbatch_size}, {device_name(device)}, {dense.num_threads} threads",
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "plan" else "right")
    for name, step in steps.items():
        table.add_row(
            name,
            f"{step.flops / dense.flops:.3f}",
            f"{step.wasted_flops / dense.flops:.3f}",
            f"{step.step_s:.3f}",
            f"{step.step_spread_s:.3f}",
            f"{step.step_s / plain.step_s:.3f}",
            f"{step.step_s / dense.step_s:.3f}",
            f"{_time_over_flops(step, dense):.3f}",
            *(f"{_beyond_share(step, dense, part):+.3f}" for part in PARTS),
        )
    console = Console(width=140)
    console.print(table)
    half_s = steps["half FULL, half SHORTCUT"].step_s
    worst = max(_time_over_flops(steps[name], dense) for name in random)
    _verdict("half FULL / dense", half_s / dense.step_s, TARGET_HALF)
    _verdict("all FULL / plain timm", dense.step_s / plain.step_s, TARGET_DENSE)
    _verdict("worst random plan, time ratio / FLOPs ratio", worst, TARGET_RANDOM)
    if not given.skip_heads:
        console.print(_by_heads(model, shape, workload.microbatch_samples, device))


def _model(name: str, image_size: int) -> tuple[nn.Module, str]:
    """A model, and whether its weights are pretrained or random."""
    if name == FOCUS_MODEL:
        try:
            return build_model(name, image_size=image_size, weights=FOCUS_WEIGHTS), "pretrained"
        except InputError as error:
            print(f"{error}\nrandom weights are measured instead")
    return build_model(name, image_size=image_size), "random weights"


def _by_heads(
    model: nn.Module, shape: ModelShape, samples: tuple[int, ...], device: torch.device
) -> Table:
    """Time ratio / FLOPs ratio of random plans, by the heads of a subnet."""
    table = Table("heads of a subnet", title="Random plans: FLOPs ratio, time ratio / FLOPs ratio")
    for full, forward_only in RANDOM_SHARES:
        table.add_column(f"{full:.0%} FULL, {forward_only:.0%} forward only", justify="right")
    for num_heads in (n for n in range(1, shape.num_heads + 1) if shape.num_heads % n == 0):
        workload = Workload(shape, partition_by_heads(shape, num_heads), samples)
        _, random = _random_schedules(workload)
        schedules = {"all FULL": _microbatches_full(workload, workload.num_microbatches), **random}
        steps = measure_steps(model, workload, schedules, device, num_repeats=3)
        dense = steps["all FULL"]
        cells = [
            f"{steps[name].flops / dense.flops:.2f}, {_time_over_flops(steps[name], dense):.3f}"
            for name in random
        ]
        table.add_row(str(num_heads), *cells)
    return table


def _time_over_flops(step: StepMeasurement, dense: StepMeasurement) -> float:
    return step.step_s / dense.step_s / (step.flops / dense.flops)


def _beyond_share(step: StepMeasurement, dense: StepMeasurement, part: str) -> float:
    """What a part takes more than its FLOPs' share of the dense step's, of the dense step."""
    own, whole = (getattr(of, f"{part}_s") for of in (step, dense))
    return float(own - whole * step.flops / dense.flops) / dense.step_s


def _random_schedules(workload: Workload) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A random half FULL, the rest SHORTCUT; and plans of 30 to 80 % of the dense compute."""
    rng = np.random.default_rng(0)
    dense = _microbatches_full(workload, workload.num_microbatches)
    half = rng.permuted(np.resize([Operation.FULL, Operation.SHORTCUT], dense.size))
    plans = {}
    for full, forward_only in RANDOM_SHARES:
        shares = (1 - full - forward_only, forward_only, full)
        schedule = rng.choice(3, size=dense.shape, p=shares)
        compute = step_flops(workload, schedule) / step_flops(workload, dense)
        plans[f"random, {compute:.0%} compute, {forward_only:.0%} forward only"] = schedule
    return half.reshape(dense.shape), plans


def _microbatches_full(workload: Workload, num_full: int) -> np.ndarray:
    """The first micro-batches FULL in all subnets, the others SHORTCUT."""
    schedule = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.SHORTCUT)
    schedule[:, :num_full] = Operation.FULL
    return schedule


def _verdict(what: str, value: float, target: float) -> None:
    print(f"{what}: {value:.3f} (target at most {target}) {'ok' if value <= target else 'MISSED'}")


if __name__ == "__main__":
    main()
