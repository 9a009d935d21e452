"""A run directory whose plan, solvers and simulations are real and whose measurements are given."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import cli
from analysis.report import write_report
from analysis.run_dir import Run, save_run
from analysis.run_records import MeasurementFile, PredictionFile
from d2ft_sched.capacity import Budget
from d2ft_sched.cluster import Cluster, Link
from d2ft_sched.device import Device
from d2ft_sched.formulate import formulate
from d2ft_sched.model_shape import vision_transformer_shape
from d2ft_sched.operations import Operation
from d2ft_sched.partition import partition_by_heads
from d2ft_sched.placement import place_round_robin
from d2ft_sched.planning import plan_from_solution
from d2ft_sched.provenance import provenance
from d2ft_sched.schedule import uniform_schedule
from d2ft_sched.scores import Scores
from d2ft_sched.solve import solve
from d2ft_sched.workload import Workload
from sim.prediction import Prediction
from sim.step import simulate_step

SPEEDS = {"a100": 40e12, "rtx3090": 20e12, "gtx1080": 5e12}
MEASURED_OVER_PREDICTED = {"dense": 1.06, "plan": 1.02, "random": 1.04}
TOP1 = {"dense": (0.80, 0.91, 0.945), "plan": (0.77, 0.90, 0.938), "random": (0.70, 0.86, 0.91)}


def _device(name: str, flops_per_s: float) -> Device:
    return Device(name, flops_per_s, 8 * 2**30, flops_per_s / 40, launch_s=1e-5)


def _steps(run_steps: dict[str, Prediction]) -> dict[str, dict[str, float]]:
    steps = {}
    for name, prediction in run_steps.items():
        step_s = prediction.step_s * MEASURED_OVER_PREDICTED[name]
        steps[name] = {
            "step_s": step_s,
            "step_s_spread": 0.02 * step_s,
            "forward_s": 0.3 * step_s,
            "backward_s": 0.6 * step_s,
            "optimizer_s": 0.1 * step_s,
            "flops": prediction.flops,
            "peak_memory_bytes": 0.95 * float(prediction.peak_memory_bytes.max()),
            "exchange_bytes": 0.0,
        }
    return steps


@pytest.fixture(scope="session")
def run() -> Run:
    """Two solvers, three runs, three unequal devices on a switch."""
    shape = vision_transformer_shape(
        "vit_of_four_blocks", image_size=56, patch_size=14, width=192, num_blocks=4,
        num_heads=6, mlp_hidden=768, num_classes=10,
    )  # fmt: skip
    workload = Workload(shape, partition_by_heads(shape, 1), (8,) * 5)
    size = (workload.num_subnets, workload.num_microbatches)
    cluster = Cluster(
        "three unequal GPUs",
        tuple(_device(name, rate) for name, rate in SPEEDS.items()),
        tuple(Link(name, "switch", 1.25e9, 2e-5) for name in SPEEDS),
        ("switch",),
        "star",
    )
    alone = Cluster("this machine", (_device("cpu", 1e11),))
    placement = place_round_robin(workload.partition, workload.num_microbatches, len(SPEEDS))
    rng = np.random.default_rng(0)
    scores = Scores(rng.gamma(2.0, size=size), rng.gamma(2.0, size=size))
    budget = Budget(0.6, 1.0)
    problem = formulate(workload, cluster, placement, scores, budget).problem
    solutions = {name: solve(problem, solver=name) for name in ("two_stage", "dp", "mip")}
    plan = plan_from_solution(workload, cluster, placement, budget, solutions["dp"])
    schedules = {
        "dense": uniform_schedule(*size, Operation.FULL),
        "plan": plan.schedule,
        "random": rng.permuted(plan.schedule, axis=1),
    }
    on_cluster = {
        name: simulate_step(workload, cluster, placement, schedule)
        for name, schedule in schedules.items()
    }
    together = place_round_robin(workload.partition, workload.num_microbatches, 1)
    on_device = {
        name: simulate_step(workload, alone, together, schedule)
        for name, schedule in schedules.items()
    }
    comparison = pd.DataFrame(
        {
            "solver": name,
            "method": solution.method,
            "status": str(solution.status),
            "objective": solution.objective,
            "upper_bound": solution.upper_bound if math.isfinite(solution.upper_bound) else None,
            "gap": solution.gap if math.isfinite(solution.gap) else None,
            "build_s": solution.build_s,
            "solve_s": solution.solve_s,
            "compute_fraction": 0.6,
            "communication_fraction": 0.8,
            "predicted_step_s": simulate_step(
                workload, cluster, placement, solution.schedule
            ).step_s,
            "workload_cv": 0.2,
        }
        for name, solution in solutions.items()
    )
    return Run(
        plan=plan,
        comparison=comparison,
        prediction=PredictionFile(
            cluster={name: p.summary() for name, p in on_cluster.items()},
            this_device={name: p.summary() for name, p in on_device.items()},
        ),
        measurement=MeasurementFile(
            device="CPU <of two threads> & no GPU",
            data={
                "name": "digits", "num_train": 1000, "num_test": 500, "num_classes": 10,
                "image_size": 56,
            },
            scoring={"seconds": 2.5, "flops": 3e11},
            steps=_steps(on_device),
            training={
                name: {
                    "epochs": [
                        {
                            "epoch": epoch, "train_loss": 1 / epoch, "test_accuracy": accuracy,
                            "train_s": 30.0, "flops": 25 * on_device[name].flops,
                        }
                        for epoch, accuracy in enumerate(top1, start=1)
                    ],
                    "test_accuracy_before": 0.09,
                    "seed": 0,
                }
                for name, top1 in TOP1.items()
            },
        ),
        timelines={name: on_cluster[name].timeline() for name in ("dense", "plan")},
        provenance=provenance(0, ["d2ft", "demo"]),
    )  # fmt: skip


@pytest.fixture
def run_dir(run: Run, tmp_path: Path) -> Path:
    """A fresh directory with every file that the report reads."""
    save_run(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="session")
def report_dir(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with its report, to read only."""
    path = tmp_path_factory.mktemp("report")
    save_run(run, path)
    assert write_report(path) == path / "report.html"
    return path


@pytest.fixture
def d2ft(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; gives exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["d2ft", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call
