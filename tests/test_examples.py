"""Every script of the gallery runs, says what it found and leaves its files."""

import runpy
from pathlib import Path

import pandas as pd
import pytest

from analysis.sweeping.sweep_table import load_table
from d2ft_sched.plan.plan_file import load_plan

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = ["--model", "vit_tiny_patch16_224", "--image-size", "32"]
CLUSTER = """
name: lab
devices:
  - {name: desk, compute_flops_per_s: 1e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
  - {name: laptop, compute_flops_per_s: 4e10, memory_bytes: 4 GB, memory_bandwidth_bytes_per_s: 5e9}
network: {kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}
"""


@pytest.fixture
def cluster(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text(CLUSTER)
    return path


@pytest.fixture
def example(tmp_path, capsys):
    """Runs a script's `main`; gives its output and folder."""

    def run(name, *options):
        main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
        main([*SMALL, *options, "--out", str(tmp_path)])
        for svg in tmp_path.glob("*.svg"):
            assert svg.with_suffix(".png").stat().st_size > 5000
        return capsys.readouterr().out, tmp_path

    return run


def test_all_scripts_are_tested_here():
    tested = {"lab_cluster", "how_much_bandwidth", "dp_against_mip", "execute_and_validate"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_a_plan_for_a_lab_cluster(example, cluster):
    printed, out = example("lab_cluster", "--cluster", str(cluster))
    plan = load_plan(out / "plan.json")
    assert [device.name for device in plan.cluster.devices] == ["desk", "laptop"]
    assert plan.budget.compute == 0.6
    assert printed.count("waiting for messages") == 2
    assert {path.stem for path in out.glob("*.svg")} == {"topology", "timeline", "workload"}


def test_how_much_bandwidth_is_enough(example, cluster):
    printed, out = example("how_much_bandwidth", "--cluster", str(cluster), "--jobs", "1")
    table = load_table(out / "sweep.csv")
    assert len(table) == 40
    assert "60 % of the compute, 50 % of the bytes:" in printed
    assert (out / "step_time_lab.svg").exists()


def test_dp_against_mip(example, cluster):
    printed, out = example(
        "dp_against_mip", "--cluster", str(cluster), "--solvers", "dp,two_stage,scip",
        "--microbatches", "4",
    )  # fmt: skip
    table = pd.read_csv(out / "comparison.csv").set_index("solver")
    assert table.loc["dp", "status"] == table.loc["scip", "status"] == "OPTIMAL"
    assert table.loc["dp", "objective"] == pytest.approx(table.loc["scip", "objective"])
    assert table.loc["two_stage", "objective"] <= table.loc["dp", "objective"]
    assert printed.count("of the best bound") == 3


def test_a_plan_executed_and_validated(example):
    printed, out = example("execute_and_validate", "--microbatch-size", "2", "--repeats", "1")
    flops = [line for line in printed.splitlines() if line.strip().startswith("FLOPs")]
    assert flops[-1].split("largest error ")[1].startswith("0.0")
    assert (out / "validation.json").exists()
