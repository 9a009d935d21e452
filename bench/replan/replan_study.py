"""One rank loses speed while a training runs: with re-planning, without, and undisturbed."""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from analysis import PlacementName, plan_request, read_request
from analysis.finetuning.metrics_file import METRICS
from analysis.names.schedule_names import ScheduleName
from analysis.results.run_dir import PLAN
from d2ft_sched import Budget, InputError, load_cluster, save_plan
from runtime.checkpoint.checkpoint import MODEL
from runtime.testbed.open_testbed import open_testbed
from runtime.testbed.ranks import run_ranks

UNDISTURBED, FIXED, REPLANNED = "undisturbed", "disturbed", "disturbed, re-planned"
RUNS = (UNDISTURBED, FIXED, REPLANNED)

ENVIRONMENT = {"MKL_CBWR": "COMPATIBLE"}
"""Of the ranks: products without wide vector units, so that a host of the testbed computes slowly
beside its network, as devices do that are worth joining."""

POLL_S = 0.05


@dataclass(frozen=True)
class ReplanStudy:
    """What to run.

    Attributes:
        cluster: file of the testbed; every device gets a rank.
        model, image_size, num_microbatches, microbatch_size: as for ``d2ft plan``.
        budget: fraction of the dense run's FLOPs.
        data: data set.
        num_train, num_test, num_epochs, learning_rate: of the training.
        device: that loses speed.
        factor: of its CPU share that it keeps.
        from_step: after which it does.
        until_step: after which it has its share again.
        every: steps from one look at the times to the next.
        seeds: of trainings; every one is run three times.
    """

    cluster: Path
    model: str = "vit_small_patch14_dinov2"
    image_size: int = 56
    num_microbatches: int = 10
    microbatch_size: int = 2
    budget: float = 0.7
    data: str = "mnist-subset"
    num_train: int = 500
    num_test: int = 400
    num_epochs: int = 4
    learning_rate: float = 1e-5
    device: str = "host2"
    factor: float = 0.5
    from_step: int = 25
    until_step: int = 70
    every: int = 3
    seeds: tuple[int, ...] = (0,)


def run_replan_study(
    study: ReplanStudy,
    out: Path,
    say: Callable[[str], object],
    max_runs: int | None = None,
) -> bool:
    """Run what `out` does not have yet; each run leaves its ``metrics.jsonl`` there.

    Args:
        study: what to run.
        out: folder of the plan and the runs.
        say: told what happens.
        max_runs: trainings after which to stop; None for all.

    Returns:
        Whether all runs are there.

    Raises:
        InputError: the testbed cannot be made here, or a run failed.
    """
    if not (out / PLAN).exists():
        _plan(study, out)
    os.environ |= ENVIRONMENT
    pending = [
        (name, seed)
        for seed in study.seeds
        for name in RUNS
        if not (run_folder(out, name, seed) / "provenance.json").exists()
    ]
    for name, seed in pending[:max_runs]:
        start = time.monotonic()
        _run(study, name, seed, out, run_folder(out, name, seed), say)
        say(f"{name}, seed {seed}: {time.monotonic() - start:.0f} s")
    return max_runs is None or len(pending) <= max_runs


def run_folder(out: Path, name: str, seed: int) -> Path:
    """Where a run's ``metrics.jsonl`` is."""
    return out / f"{name.replace(', ', '_').replace('-', '_')}_seed{seed}"


def _plan(study: ReplanStudy, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    request = read_request(
        model=study.model,
        image_size=study.image_size,
        num_classes=10,
        microbatches=study.num_microbatches,
        microbatch_size=study.microbatch_size,
        cluster_file=study.cluster,
        scores_file=None,
        budget=Budget(study.budget),
    )
    planned = plan_request(request, PlacementName.EVERY_DEVICE)
    save_plan(planned.plan, out / PLAN)


def _run(
    study: ReplanStudy,
    name: str,
    seed: int,
    out: Path,
    folder: Path,
    say: Callable[[str], object],
) -> None:
    command = [
        sys.executable, "-m", "analysis.cli", "finetune", out / PLAN, "--data", study.data,
        "--num-train", study.num_train, "--num-test", study.num_test,
        "--image-size", study.image_size, "--epochs", study.num_epochs, "--device", "cpu",
        "--learning-rate", study.learning_rate, "--schedule", ScheduleName.PER_STEP.value,
        "--seed", seed, "--out", folder,
    ]  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run has left
    if name == REPLANNED:
        command += ["--replan-every", study.every]
    with open_testbed(load_cluster(study.cluster)) as testbed:
        changes = []
        if name != UNDISTURBED:
            changes = [(study.from_step, study.factor), (study.until_step, 1.0)]

        def tick() -> float:
            if not changes:
                return math.inf
            if num_steps(folder / METRICS) >= changes[0][0]:
                step, factor = changes.pop(0)
                testbed.scale_share(study.device, factor)
                say(f"{study.device} has {factor:g} of its CPU share after step {step}")
            return POLL_S

        lines: list[str] = []
        code = run_ranks(testbed, [str(part) for part in command], show=lines.append, tick=tick)
    if code:
        raise InputError(
            f"{name}, seed {seed}: ended with exit code {code}: {' '.join(lines[-3:])}"
        )
    (folder / MODEL).unlink()


def num_steps(metrics: Path) -> int:
    """Steps that a training has written so far."""
    return metrics.read_text().count('"event": "stepped"') if metrics.exists() else 0
