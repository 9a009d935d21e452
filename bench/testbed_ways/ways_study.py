"""The stages of the study: profile the hosts, make plans for what was measured, run them."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from bench.testbed_ways.study_plans import Groups, StudyPlan, study_plans
from d2ft_sched import Budget, InputError, load_cluster, save_plan
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload
from runtime.testbed.open_testbed import open_testbed
from runtime.testbed.ranks import run_ranks
from sim.step import simulate_plan

MEASURED_CLUSTER = "cluster.yaml"
PLANS = "plans"
BATCH = 6
"""Plans that ranks run before they write what they measured: all that an interruption loses."""
START_S = 60.0
"""About what ranks of slow hosts take to start."""
RUNS_BESIDES = 3.5
"""Steps of a plan besides those timed: one to begin, FLOPs and memory counted, the model built."""

FOUR_HOSTS: dict[str, Groups] = {
    "fastest_alone": ((0,),),
    "two_fast": ((0,), (1,)),
    "three": ((0,), (1,), (2,)),
    "all_four": ((0,), (1,), (2,), (3,)),
    "cut_of_two": ((0, 1),),
    "cut_and_one": ((0, 1), (2,)),
}
"""Replicas by the devices of ``examples/clusters/testbed_unequal.yaml``."""


@dataclass(frozen=True)
class WaysStudy:
    """What to run.

    Attributes:
        cluster: file of the testbed; every device gets a rank.
        model, image_size, num_microbatches, microbatch_size: as for ``d2ft plan``.
        compute, gradient_bytes: budget of the plans that let blocks rest.
        profile_repeats, num_repeats: timed runs of each size of work, of each plan.
        groups: ways besides the planner's own.
        seed: of what rests.
    """

    cluster: Path
    model: str = "vit_tiny_patch16_224"
    image_size: int = 64
    num_microbatches: int = 8
    microbatch_size: int = 16
    compute: float = 0.6
    gradient_bytes: float = 0.5
    profile_repeats: int = 3
    num_repeats: int = 3
    groups: dict[str, Groups] = field(default_factory=lambda: dict(FOUR_HOSTS))
    seed: int = 0


def run_ways_study(
    study: WaysStudy, out: Path, say: Callable[[str], object], minutes: float
) -> list[StudyPlan] | None:
    """Run what `out` does not have yet, as far as the time goes.

    Returns:
        The plans, when all are measured; else None.

    Raises:
        InputError: the testbed cannot be made here, or a run failed.
    """
    end_s = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    if not (out / MEASURED_CLUSTER).exists():
        begin_s = time.monotonic()
        _on_testbed(study, _profile_command(study, out))
        say(f"profiled: {time.monotonic() - begin_s:.0f} s")
    plans = plans_of(study, out)
    for one in plans:
        save_plan(one.plan, out / PLANS / f"{one.name}.json")
    pending = [one for one in plans if one.name not in measured_names(out)]
    while pending:
        batch, pending = pending[:BATCH], pending[BATCH:]
        step_s = sum(simulate_plan(one.plan).step_s for one in batch)
        needed_s = START_S + step_s * (study.num_repeats + RUNS_BESIDES)
        if time.monotonic() + needed_s > end_s:
            say(f"{len(batch) + len(pending)} plans are left; run the same command again")
            return None
        begin_s = time.monotonic()
        _measure(study, out, batch)
        say(f"measured {', '.join(one.name for one in batch)}: {time.monotonic() - begin_s:.0f} s")
    return plans


def plans_of(study: WaysStudy, out: Path) -> list[StudyPlan]:
    """Of the cluster as it was measured."""
    shape = load_model_shape(study.model, image_size=study.image_size, num_classes=10)
    sizes = (study.microbatch_size,) * study.num_microbatches
    workload = Workload(shape, partition_by_heads(shape, 1), sizes)
    budget = Budget(study.compute, study.gradient_bytes)
    return study_plans(
        workload, load_cluster(out / MEASURED_CLUSTER), study.groups, budget, study.seed
    )


def measured_tables(out: Path, name: str) -> pd.DataFrame:
    """What all batches wrote in ``plans.csv`` or ``phases.csv``, one below the other."""
    files = sorted((out / "measured").glob(f"*/{name}"))
    return pd.concat([pd.read_csv(file) for file in files]) if files else pd.DataFrame()


def measured_names(out: Path) -> set[str]:
    table = measured_tables(out, "plans.csv")
    return set(table["plan"]) if len(table) else set()


def _measure(study: WaysStudy, out: Path, batch: Sequence[StudyPlan]) -> None:
    folder = out / "measured" / batch[0].name
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run has left
    files = [out / PLANS / f"{one.name}.json" for one in batch]
    _on_testbed(
        study, ["validate", *files, "--device", "cpu", "--repeats", study.num_repeats,
                "--image-size", study.image_size, "--out", folder],
    )  # fmt: skip


def _profile_command(study: WaysStudy, out: Path) -> list[object]:
    return [
        "profile", "--cluster-out", out / MEASURED_CLUSTER, "--model", study.model,
        "--device", "cpu", "--image-size", study.image_size,
        "--microbatches", study.num_microbatches,
        "--microbatch-size", study.microbatch_size, "--repeats", study.profile_repeats,
    ]  # fmt: skip


def _on_testbed(study: WaysStudy, command: Sequence[object]) -> None:
    lines: list[str] = []
    with open_testbed(load_cluster(study.cluster)) as testbed:
        whole = [sys.executable, "-m", "analysis.cli", *map(str, command)]
        code = run_ranks(testbed, whole, show=lines.append)
    if code:
        raise InputError(f"{command[0]} ended with exit code {code}: {' '.join(lines[-3:])}")
