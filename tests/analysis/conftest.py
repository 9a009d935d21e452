"""Folders of results: a demo and others whose measurements are given, a real training and sweep."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.reporting.write_report import write_report
from analysis.results.run_dir import Run, save_run
from analysis.results.run_records import MeasurementFile, PredictionFile
from analysis.studying.study_summary import SAVED, SPENT
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.deployment import deploy
from d2ft_sched.files.provenance import provenance
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.planning import plan_from_solution
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.solvers.registry import solve
from made_once import made_once
from sim.prediction import Prediction
from sim.step import simulate_step

SPEEDS = {"a100": 40e12, "rtx3090": 20e12, "gtx1080": 5e12}
MEASURED_OVER_PREDICTED = {"dense": 1.06, "plan": 1.02, "fewer": 1.04}
TOP1 = {"dense": (0.80, 0.91, 0.945), "plan": (0.77, 0.90, 0.938), "fewer": (0.70, 0.86, 0.91)}


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
    """Three runs, three unequal devices on a switch."""
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
    deployment = deploy(workload, cluster)
    rng = np.random.default_rng(0)
    scores = Scores(rng.gamma(2.0, size=size), rng.gamma(2.0, size=size))
    budget = Budget(0.6, 1.0)
    problem = formulate(deployment, scores, budget).problem
    plan = plan_from_solution(deployment, budget, solve(problem, solver="dp"))
    schedules = {
        "dense": uniform_schedule(*size, Operation.FULL),
        "plan": plan.schedule,
        "fewer": rng.permuted(plan.schedule, axis=1),
    }
    on_cluster = {name: simulate_step(deployment, schedule) for name, schedule in schedules.items()}
    on_device = {
        name: simulate_step(deploy(workload, alone), schedule)
        for name, schedule in schedules.items()
    }
    return Run(
        plan=plan,
        prediction=PredictionFile(
            verdict="The plan is held against the best dense way",
            ways={name: f"{name}, cut over three" for name in on_cluster},
            cluster={name: p.summary() for name, p in on_cluster.items()},
            this_device={name: p.summary() for name, p in on_device.items()},
        ),
        measurement=MeasurementFile(
            device="CPU <of two threads> & no GPU",
            data={
                "name": "digits", "num_train": 1000, "num_test": 500, "num_classes": 10,
                "image_size": 56,
            },
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


def _validated(name: str, predicted_s: float, measured_s: float) -> dict[str, Any]:
    values: dict[str, Any] = {"plan": name, "step_spread_s": 0.01}
    for quantity_name, predicted, measured in (
        ("step_s", predicted_s, measured_s), ("flops", 1e9, 1e9), ("bytes", 0.0, 0.0),
        ("peak_memory_bytes", 2e8, 1.9e8),
    ):  # fmt: skip
        values[f"predicted_{quantity_name}"] = predicted
        values[f"measured_{quantity_name}"] = measured
        values[f"error_{quantity_name}"] = predicted / measured - 1 if measured else 0.0
    return values


def _validation() -> dict[str, Any]:
    return {
        "device": "four threads & no GPU",
        "cluster": "this-device",
        "agreement": {
            "step_s": {"mean": 0.03, "largest": 0.11, "worst_plan": "dp, 0.6", "kendall_tau": 0.91},
            "flops": {"mean": 0.0, "largest": 0.0, "worst_plan": "dense", "kendall_tau": None},
        },
        "plans": [
            _validated("dense", 1.0, 1.1), _validated("all SHORTCUT", 0.1, 0.1),
            _validated("dp, 0.6", 0.6, 0.55),
        ],
        "baselines": [_validated("untouched model", 1.0, 1.2)],
        "phases": [
            {"plan": "dense", "phase": "forward", "predicted_s": 0.3, "measured_s": 0.32,
             "error_of_step": -0.018},
        ],
        "provenance": {"seed": 3, "d2ft_version": "0.1.0"},
    }  # fmt: skip


@pytest.fixture
def validation() -> dict[str, Any]:
    """``validation.json`` of four plans, with given measurements."""
    return _validation()


METHODS = {
    "dense": ("dense", 0.70, 9.0),
    "d2ft": ("60 % compute", 0.69, 5.0),
    "random": ("60 % compute", 0.52, 5.0),
}
"""Of a study: budget, top-1 and predicted seconds."""


def _write_study(folder: Path) -> Path:
    runs, curves = [], []
    for cluster, seed in ((c, s) for c in ("one slow", "mix") for s in (0, 1)):
        for method, (budget, top1, seconds) in METHODS.items():
            head = {"cluster": cluster, "budget": budget, "method": method, "seed": seed}
            head["key"] = f"{cluster}{seed}{method}"
            row = dict.fromkeys((*SAVED, *SPENT), 0.5) | {"top1": top1 + 0.02 * seed, "note": ""}
            runs.append(head | row | {"simulated_total_s": seconds})
            for epoch in (0, 1, 2):
                spent = {"compute_fraction": epoch / 2, "simulated_s": seconds * epoch / 2}
                spent["gradient_fraction"] = spent["compute_fraction"]
                spent["measured_train_s"] = 3 * spent["simulated_s"]
                curves.append(head | {"epoch": epoch, "top1": top1 * (1 + epoch) / 3} | spent)
    runs.append(head | {"key": "x", "method": "too tight", "note": "not one micro-batch is done"})
    folder.mkdir()
    pd.DataFrame(runs).to_csv(folder / "runs.csv", index=False)
    pd.DataFrame(curves).to_csv(folder / "curves.csv", index=False)
    facts = provenance(0, ["d2ft", "study"], study="small & quick")
    settings = {"data": {"name": "digits", "num_train": 20}}
    (folder / "provenance.json").write_text(json.dumps(facts | {"settings": settings}))
    return folder


@pytest.fixture
def study_results(tmp_path: Path) -> Path:
    """A folder as 'd2ft study' writes it: two clusters, two seeds, given accuracies."""
    return _write_study(tmp_path / "study_results")


@pytest.fixture(scope="session")
def page_text() -> Callable[[Path], str]:
    """What a page says, without tags."""

    def read(page: Path) -> str:
        html = page.read_text(encoding="utf-8")
        html = re.sub(r"<(style|script).*?</\1>", "", html, flags=re.S)
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))

    return read


@pytest.fixture
def report_text(page_text: Callable[[Path], str]) -> Callable[[Path], str]:
    """Makes the report of a folder; gives what its page says."""
    return lambda folder: page_text(write_report(folder))


@pytest.fixture
def refused_report(d2ft: Callable[..., tuple[int, str, str]]) -> Callable[[Path, str], None]:
    """Asserts that a folder's report is refused in one line, and that nothing is written."""

    def check(folder: Path, said: str) -> None:
        before = sorted(folder.rglob("*"))
        code, printed, err = d2ft("report", folder)
        assert (code, printed) == (2, "")
        assert err.startswith("d2ft: ")
        assert said in err
        assert err.count("\n") == 1
        assert sorted(folder.rglob("*")) == before

    return check


@pytest.fixture(scope="session")
def full_report(
    run: Run, trained: Path, swept: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The report of a folder with results of every command, to read only."""

    def make(folder: Path) -> None:
        save_run(run, folder)
        (folder / "validate").mkdir()
        (folder / "validate" / "validation.json").write_text(json.dumps(_validation()))
        _write_study(folder / "study")
        shutil.copytree(trained, folder / "finetune")
        shutil.copytree(swept, folder / "sweep")
        write_report(folder)

    return made_once(tmp_path_factory, "full_report", make) / "report.html"


@pytest.fixture(scope="session")
def trained(
    d2ft_code: Callable[..., int],
    noise_pictures: Path,
    even_plan: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder as 'd2ft finetune' writes it: scored, two epochs of four steps; to read only."""

    def train(folder: Path) -> None:
        code = d2ft_code(
            "finetune", even_plan, "--data", f"imagefolder:{noise_pictures}", "--num-train", 20,
            "--num-test", 8, "--image-size", 32, "--device", "cpu", "--learning-rate", 1e-3,
            "--epochs", 2, "--checkpoint-every", 5, "--keep", 1, "--schedule", "per-minibatch",
            "--out", folder / "run",
        )  # fmt: skip
        assert code == 0

    return made_once(tmp_path_factory, "trained", train) / "run"


@pytest.fixture(scope="session")
def swept(
    d2ft_code: Callable[..., int], two_equal: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder as 'd2ft sweep' writes it, of twelve points; to read only."""

    def sweep(folder: Path) -> None:
        code = d2ft_code(
            "sweep", "--cluster", two_equal, "--model", "vit_tiny_patch16_224", "--image-size", 32,
            "--minibatch-size", 6, "--microbatches", 3, "--budget-compute", "0.4,0.7,1",
            "--budget-comm", "0.6,1", "--scale-bandwidth", "0.1,1", "--placement", "every-device",
            "--jobs", 1, "--no-plots", "--out", folder / "out",
        )  # fmt: skip
        assert code == 0

    return made_once(tmp_path_factory, "swept", sweep) / "out"


@pytest.fixture(scope="session")
def wait_for_step() -> Callable[[Path, int], None]:
    """Wait until a training in a folder has done so many steps; at most two minutes."""

    def wait(out: Path, number: int) -> None:
        metrics, deadline = out / "metrics.jsonl", time.monotonic() + 120
        while time.monotonic() < deadline:
            if metrics.exists() and metrics.read_text().count('"stepped"') >= number:
                return
            time.sleep(0.02)
        raise TimeoutError(f"no step {number} in {metrics}")

    return wait
