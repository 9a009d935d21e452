"""Step time under plans against plain timm and against the dense plan, side by side.

By default ViT-S/14 at 112 pixels, mini-batch of 5 micro-batches of 16, AdamW, subnets of one head.
All steps of a round run one after another, so that a busy machine slows them alike; medians over
the rounds. A round takes about as long as six dense steps, and one more than ``--repeats`` are run.
Another model, with random weights:
``python -m bench step --model vit_base_patch16_224 --image-size 224 --microbatch-size 4``.
"""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from d2ft_sched import (
    InputError,
    ModelShape,
    Operation,
    Replica,
    Workload,
    load_cluster,
    partition_by_heads,
    uniform_schedule,
)
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.flops import step_flops
from d2ft_sched.costs.lanes.executed_flops import step_wasted_flops
from d2ft_sched.schedule.placement import place_round_robin
from runtime import build_model, device_name, select_device, shape_of, steady_process
from runtime.families.focus_weights import FOCUS_MODEL, FOCUS_WEIGHTS
from runtime.measure.steps_side_by_side import StepSeconds, StepsSideBySide
from runtime.measure.trunk_pass import run_trunk
from runtime.torch_device import Stopwatch, assumed_device, autocast, num_threads

NUM_MICROBATCHES = 5
RANDOM_SHARES = ((0.2, 0.3), (0.4, 0.0), (0.4, 0.3), (0.6, 0.0), (0.7, 0.2))
"""Of operations: FULL and FORWARD_ONLY."""
PLAIN, DENSE, HALF = "plain timm", "all FULL", "half FULL, half SHORTCUT"
COLUMNS = (
    *("plan", "FLOPs", "masked", "groups", "step s", "spread s", "x timm", "x dense"),
    *("time / FLOPs", "trunk", "masks", "pieces"),
)
"""Masked are FLOPs of cells that are computed besides, since that takes less than another group;
groups are lane groups of a block. The last three say where the time goes that a plan takes beyond
its FLOPs' share of the dense step, of the dense step: to what always runs, update included; to
masked FLOPs at the dense step's rate; and to smaller pieces, their copies and masks, and norms."""
TARGET_DENSE, TARGET, TARGET_SMALL, SMALL = 1.05, 1.10, 1.15, 0.38
"""Of all FULL / plain timm, and of time / FLOPs, where FLOPs are at most `SMALL` the latter."""


@dataclass(frozen=True)
class Row:
    """A plan's step: seconds, and FLOPs as shares of the dense step's."""

    seconds: StepSeconds
    flops: float
    masked: float
    groups: float

    def over_flops(self, dense: "Row") -> float:
        return self.seconds.step_s / dense.seconds.step_s / self.flops


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench_step", description=__doc__)
    parser.add_argument("--model", default=FOCUS_MODEL, help="timm name of a vision transformer")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--microbatch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--by-heads", action="store_true", help="subnets of more heads, too")
    parser.add_argument(
        "--cluster",
        type=Path,
        help="file of 'd2ft profile': what things cost here, to cut lanes by",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto")
    parser.add_argument(
        "--plain", action="store_true", help="on CUDA, do not record plans as graphs"
    )
    given = parser.parse_args()
    steady_process()
    device = select_device(given.device)
    costs = assumed_device(device)
    if given.cluster is not None:
        costs = load_cluster(given.cluster).devices[0]
    model, kind = _model(given.model, given.image_size)
    model, shape = model.to(device), shape_of(model)
    samples = (given.microbatch_size,) * NUM_MICROBATCHES
    title = (
        f"{given.model} ({kind}), {given.image_size} px, {NUM_MICROBATCHES} micro-batches of "
        f"{given.microbatch_size}, {device_name(device)}, {num_threads()} threads"
    )
    console = Console(width=140)
    for num_heads in _heads_of_subnets(shape) if given.by_heads else (1,):
        workload = Workload(shape, partition_by_heads(shape, num_heads), samples)
        rows, trunk_s = _measure(
            model,
            workload,
            device,
            costs,
            given.repeats,
            captures=device.type == "cuda" and not given.plain,
        )
        console.print(_table(f"{title}, {num_heads} heads a subnet", rows, trunk_s))
        _verdicts(rows)


def _heads_of_subnets(shape: ModelShape) -> list[int]:
    return [n for n in range(1, shape.num_heads + 1) if shape.num_heads % n == 0]


def _measure(
    model: nn.Module,
    workload: Workload,
    device: torch.device,
    costs: Device,
    num_repeats: int,
    *,
    captures: bool,
) -> tuple[dict[str, Row], float]:
    """Rows by plan, and seconds of the trunk."""
    schedules = _schedules(workload)
    dense = schedules[DENSE]
    begin = time.perf_counter()
    steps = StepsSideBySide(
        model, workload, {PLAIN: None, **schedules}, device, costs=costs, captures=captures
    )

    def tell(done: int, total: int) -> None:
        if done == len(steps.names):
            round_s = time.perf_counter() - begin
            more = total // done - 1
            print(f"{more} more rounds of about {round_s:.0f} s", file=sys.stderr)

    seconds = steps.timed(num_repeats, tell)
    here = Replica(place_round_robin(workload.partition, workload.num_microbatches, 1))
    dense_flops = step_flops(workload, dense)
    rows = {PLAIN: Row(seconds[PLAIN], 1.0, 0.0, 0.0)}
    for name, schedule in schedules.items():
        slices = steps.slices[name]
        assert slices is not None
        groups = [
            len(own.backward) + len(own.forward_only)
            for block in slices.waves[0].blocks
            for own in (block.attention, block.mlp)
        ]
        rows[name] = Row(
            seconds[name],
            step_flops(workload, schedule) / dense_flops,
            step_wasted_flops(workload, here, schedule, [costs]) / dense_flops,
            statistics.mean(groups),
        )
    whole, laps = steps.slices[DENSE], []
    assert whole is not None
    for _ in range(num_repeats + 1):
        watch = Stopwatch(device)
        with autocast(device, workload):
            run_trunk(model, steps.inputs, steps.labels, whole.waves[0], watch)
        laps.append(sum(watch.seconds().values()))
    return rows, statistics.median(laps[1:])


def _model(name: str, image_size: int) -> tuple[nn.Module, str]:
    """A model, and whether its weights are pretrained or random."""
    if name == FOCUS_MODEL:
        try:
            return build_model(name, image_size=image_size, weights=FOCUS_WEIGHTS), "pretrained"
        except InputError as error:
            print(f"{error}\nrandom weights are measured instead")
    return build_model(name, image_size=image_size), "random weights"


def _table(title: str, rows: dict[str, Row], trunk_s: float) -> Table:
    plain, dense = rows[PLAIN].seconds, rows[DENSE].seconds
    table = Table(title=title)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "plan" else "right")
    for name, row in rows.items():
        own = row.seconds
        cells = [
            *(f"{row.flops:.3f}", f"{row.masked:.3f}", f"{row.groups:.1f}"),
            *(f"{own.step_s:.3f}", f"{own.step_spread_s:.3f}"),
            *(f"{own.step_s / of.step_s:.3f}" for of in (plain, dense)),
            f"{row.over_flops(rows[DENSE]):.3f}",
            *(f"{share:+.3f}" for share in _beyond_flops(row, dense, trunk_s)),
        ]
        table.add_row(name, *cells)
    table.caption = f"trunk {trunk_s / dense.step_s:.3f} of the dense step, update "
    table.caption += f"{dense.optimizer_s / dense.step_s:.3f}"
    return table


def _beyond_flops(row: Row, dense: StepSeconds, trunk_s: float) -> tuple[float, float, float]:
    """Of the dense step: to the trunk and the update, to masked FLOPs, to pieces."""
    fixed_s, fixed_dense_s = (trunk_s + of.optimizer_s for of in (row.seconds, dense))
    lanes_s, lanes_dense_s = row.seconds.step_s - fixed_s, dense.step_s - fixed_dense_s
    beyond_s = (
        fixed_s - row.flops * fixed_dense_s,
        row.masked * lanes_dense_s,
        lanes_s - (row.flops + row.masked) * lanes_dense_s,
    )
    return beyond_s[0] / dense.step_s, beyond_s[1] / dense.step_s, beyond_s[2] / dense.step_s


def _schedules(workload: Workload) -> dict[str, np.ndarray]:
    """Dense; a random half FULL, the rest SHORTCUT; plans of 30 to 80 % of the dense compute; and
    some micro-batches in all subnets."""
    rng = np.random.default_rng(0)
    dense = _microbatches_full(workload, workload.num_microbatches)
    half = rng.permuted(np.resize([Operation.FULL, Operation.SHORTCUT], dense.size))
    schedules = {DENSE: dense, HALF: half.reshape(dense.shape)}
    for full, forward_only in RANDOM_SHARES:
        shares = (1 - full - forward_only, forward_only, full)
        schedule = rng.choice(3, size=dense.shape, p=shares)
        compute = step_flops(workload, schedule) / step_flops(workload, dense)
        schedules[f"random, {compute:.0%} compute, {forward_only:.0%} forward only"] = schedule
    kept = 3
    name = f"{kept} of {NUM_MICROBATCHES} micro-batches in all subnets"
    return {**schedules, name: _microbatches_full(workload, kept)}


def _microbatches_full(workload: Workload, num_full: int) -> np.ndarray:
    """The first micro-batches FULL in all subnets, the others SHORTCUT."""
    schedule = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.SHORTCUT)
    schedule[:, :num_full] = Operation.FULL
    return schedule


def _verdicts(rows: dict[str, Row]) -> None:
    dense = rows[DENSE]
    _verdict(
        "all FULL / plain timm", dense.seconds.step_s / rows[PLAIN].seconds.step_s, TARGET_DENSE
    )
    plans = [row for name, row in rows.items() if name not in (PLAIN, DENSE)]
    for what, target, some in (
        ("worst plan, time / FLOPs", TARGET, [row for row in plans if row.flops > SMALL]),
        ("smallest plans, time / FLOPs", TARGET_SMALL, [r for r in plans if r.flops <= SMALL]),
    ):
        if some:
            _verdict(what, max(row.over_flops(dense) for row in some), target)
    slowest = max(row.seconds.step_s for row in plans)
    _verdict("slowest plan / all FULL", slowest / dense.seconds.step_s, 1.0)


def _verdict(what: str, value: float, target: float) -> None:
    print(f"{what}: {value:.3f} (target at most {target}) {'ok' if value <= target else 'MISSED'}")


if __name__ == "__main__":
    main()
