"""Sweeps: the grid, its table, going on after a stop, and the same by a Dask cluster."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.commands.parsing.axis_values import numbers
from analysis.names.placement_names import PlacementName
from analysis.results.pareto import pareto_front
from analysis.sweeping.run_sweep import Sweep
from analysis.sweeping.sweep_grid import Axes, Common, grid_points
from analysis.sweeping.sweep_table import load_table, thinned
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.errors import InputError
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.plan.plan_file import load_plan
from d2ft_sched.problem.scores import Scores, save_scores
from sim.questions.what_if import scale_bandwidth
from sim.step import simulate_plan

CLUSTER = """
name: two
devices:
  - {name: a, compute_flops_per_s: 1e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
  - {name: b, compute_flops_per_s: 6e10, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
network: {kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}
"""
MODEL = ["--model", "vit_tiny_patch16_224", "--image-size", 32, "--minibatch-size", 6]
GRID = ["--budget-compute", "0.4,0.7", "--budget-comm", "0.6,1", "--solvers", "dp,two_stage"]
TIMES = ["build_s", "solve_s"]
SHAPE = vision_transformer_shape(
    "small", image_size=28, patch_size=14, width=48, num_blocks=2, num_heads=3, mlp_hidden=96,
    num_classes=2,
)  # fmt: skip


@pytest.fixture
def cluster(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(CLUSTER)
    return path


@pytest.fixture
def sweep(d2ft, cluster, tmp_path):
    """Runs the small grid without pictures; gives its table."""

    def run(*options, out="out"):
        arguments = ["--cluster", cluster, *MODEL, *GRID, "--jobs", 1, "--out", tmp_path / out]
        code, _, err = d2ft("sweep", *arguments, *options, "--no-plots")
        assert code == 0, err
        return pd.read_csv(tmp_path / out / "sweep.csv")

    return run


@pytest.fixture(scope="module")
def small_grid(d2ft_code, tmp_path_factory):
    """What a sweep of the small grid wrote, pictures too; to read only."""
    folder = tmp_path_factory.mktemp("small_grid")
    (folder / "two.yaml").write_text(CLUSTER)
    given = ["--cluster", folder / "two.yaml", *MODEL, *GRID, "--jobs", 1, "--json"]
    assert d2ft_code("sweep", *given, "--out", folder / "out") == 0
    assert list((folder / "out").glob("*.svg"))
    return folder / "out"


@pytest.fixture
def swept_before(small_grid, tmp_path):
    """The small grid where `sweep` would run it anew; gives its table."""
    shutil.copytree(small_grid, tmp_path / "out")
    return pd.read_csv(tmp_path / "out" / "sweep.csv")


def two_devices(memory_bytes=10**9):
    devices = tuple(
        Device(name, rate, memory_bytes, 1e10) for name, rate in (("a", 1e10), ("b", 4e9))
    )
    return Cluster("pair", devices, (Link("a", "b", 1e8, 1e-5),))


def axes(**changes):
    values = {
        "clusters": [two_devices()], "bandwidth_scales": [1.0], "compute_scales": [1.0],
        "heads_per_subnet": ["1"], "num_microbatches": [3], "compute": [0.5, 1.0],
        "communication": [1.0], "memory": [1.0], "solvers": ["dp"],
    }  # fmt: skip
    return Axes(**{**values, **changes})


def test_a_row_says_what_planning_and_simulating_that_point_says(d2ft, sweep, cluster, tmp_path):
    assert len(sweep("--placement", "every-device")) == 8
    path = tmp_path / "plan.json"
    code, printed, err = d2ft(
        "plan", "--cluster", cluster, "--model", "vit_tiny_patch16_224", "--image-size", 32,
        "--microbatches", 5, "--microbatch-size", 2, "--placement", "every-device",
        "--budget-compute", 0.7, "--budget-comm", 0.6, "--out", path, "--json",
    )  # fmt: skip
    assert code == 0, err
    table = sweep("--placement", "every-device", "--minibatch-size", 10)
    row = table.query(
        "solver == 'dp' & budget_compute_fraction == 0.7 & budget_communication_fraction == 0.6"
    ).iloc[0]
    plan = json.loads(printed)
    prediction = simulate_plan(load_plan(path))
    for column in ("objective", "flops", "compute_fraction", "communication_fraction"):
        assert row[column] == pytest.approx(plan[column], rel=1e-12)
    assert row["predicted_step_s"] == pytest.approx(prediction.step_s, rel=1e-12)
    assert row["predicted_placed_dense_step_s"] == pytest.approx(
        plan["placed_dense_step_s"], rel=1e-9
    )
    for column, name in (
        ("predicted_dense_step_s", "best_dense"),
        ("predicted_fewer_samples_step_s", "fewer_samples"),
    ):  # fmt: skip
        assert row[column] == pytest.approx(plan[name]["dense_step_s"], rel=1e-9)
    assert row["fewer_samples"] == sum(plan["fewer_samples"]["samples"])
    assert row["step_fraction"] == row["predicted_step_s"] / row["predicted_dense_step_s"]
    assert row["predicted_peak_memory_bytes"] == prediction.peak_memory_bytes.max()
    assert row["predicted_exchange_wait_s"] == pytest.approx(prediction.exchange_s, rel=1e-12)


def test_what_is_done_is_not_done_again_and_a_cut_off_line_is(sweep, swept_before, tmp_path):
    first = swept_before
    journal = tmp_path / "out" / "points.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:4]) + lines[4][:50])
    again = sweep()
    assert len(journal.read_text().splitlines()) == len(lines)
    pd.testing.assert_frame_equal(again.iloc[:3], first.iloc[:3])
    pd.testing.assert_frame_equal(again.drop(columns=TIMES), first.drop(columns=TIMES))
    wider = sweep("--budget-memory", "0.5,1")
    assert len(wider) == 16
    assert len(journal.read_text().splitlines()) == len(lines) + 8
    as_before = wider[wider["budget_memory_fraction"] == 1].reset_index(drop=True)
    unequal = ["budget_memory_fraction", "is_pareto"]
    pd.testing.assert_frame_equal(as_before.drop(columns=unequal), again.drop(columns=unequal))


def test_several_processes_and_a_dask_cluster_find_the_same(sweep, swept_before):
    distributed = pytest.importorskip("distributed")
    alone = swept_before
    in_processes = sweep("--jobs", 2, out="processes")
    pd.testing.assert_frame_equal(in_processes.drop(columns=TIMES), alone.drop(columns=TIMES))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as dask:
        by_dask = sweep("--dask", dask.scheduler_address, out="dask")
    pd.testing.assert_frame_equal(by_dask.drop(columns=TIMES), alone.drop(columns=TIMES))


def test_sigterm_ends_the_workers_and_the_same_command_goes_on(cluster, tmp_path):
    command = [
        sys.executable, "-m", "analysis.cli", "sweep", "--cluster", str(cluster), "--jobs", "2",
        "--model", "vit_tiny_patch16_224", "--image-size", "32", "--no-plots",
        "--budget-compute", "0.01:1:0.002", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    journal = tmp_path / "out" / "points.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        deadline = time.monotonic() + 60
        while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert journal.exists()
        job.send_signal(signal.SIGTERM)
        _, err = job.communicate(timeout=60)  # until no worker has it open, either
    assert job.returncode == 128 + signal.SIGTERM, err
    assert "points are done; the same command goes on" in err


def test_parquet_and_csv_hold_the_same(d2ft, cluster, swept_before, tmp_path):
    pytest.importorskip("pyarrow")
    given = ["--cluster", cluster, *MODEL, *GRID, "--no-plots", "--out", tmp_path / "out"]
    code, _, err = d2ft("sweep", *given, "--jobs", 1, "--format", "parquet")
    assert code == 0, err
    csv, parquet = (load_table(tmp_path / "out" / f"sweep.{kind}") for kind in ("csv", "parquet"))
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False)


def test_a_grid_is_the_product_of_its_axes():
    points = grid_points(
        axes(
            bandwidth_scales=[0.5, 2.0], heads_per_subnet=["1", "1,2"], num_microbatches=[2, 3],
            memory=[0.4, 1.0], solvers=["dp", "greedy"],
        ),
        Common(SHAPE, 7),
    )  # fmt: skip
    assert len({point.key for point in points}) == len(points) == 2 * 2 * 2 * 2 * 2 * 2
    assert {p.setting.workload.microbatch_samples for p in points} == {(4, 3), (3, 2, 2)}
    assert {p.setting.cluster.links[0].bandwidth_bytes_per_s for p in points} == {5e7, 2e8}
    assert {p.setting.workload.num_subnets for p in points} == {6, 4}


def test_a_scaled_cluster_is_not_one_that_is_so_by_itself():
    half = scale_bandwidth(two_devices(), 0.5)
    scaled = grid_points(axes(bandwidth_scales=[0.5]), Common(SHAPE, 7))
    as_is = grid_points(axes(clusters=[half]), Common(SHAPE, 7))
    assert scaled[0].setting.cluster == as_is[0].setting.cluster
    assert not {p.key for p in scaled} & {p.key for p in as_is}


@pytest.mark.parametrize("number", [1, 11, 12, 13, 14, 20, 100])
def test_a_thinned_front_keeps_both_ends(number):
    shown = thinned(pd.DataFrame({"step": range(number)}), 12)["step"].tolist()
    assert len(shown) == min(number, 12)
    assert (shown[0], shown[-1]) == (0, number - 1)


def test_a_memory_budget_bounds_what_is_kept_and_a_device_without_room_is_a_row(tmp_path):
    points = grid_points(
        axes(compute=[1.0], memory=[0.4, 1.0]),
        Common(SHAPE, 90, placement=PlacementName.ROUND_ROBIN),
    )  # fmt: skip
    sweep = Sweep(points, tmp_path)
    sweep.run(jobs=1)
    tight, free = sweep.save()[0].to_dict("records")
    assert free["retained_score_fraction"] == pytest.approx(1)
    assert tight["retained_score_fraction"] < 1
    assert tight["predicted_peak_memory_bytes"] < free["predicted_peak_memory_bytes"]
    small = Sweep(
        grid_points(axes(clusters=[two_devices(2000)]), Common(SHAPE, 6)), tmp_path / "small"
    )
    small.run(jobs=1)
    table, _ = small.save()
    assert (table["status"] == "REFUSED").all()
    assert table["note"].str.contains("memory").all()
    assert not table["is_pareto"].any()


def test_scores_of_a_group_of_heads_are_the_sum_of_its_heads(tmp_path):
    rng = np.random.default_rng(0)
    scores = Scores(rng.random((6, 3)), rng.random((6, 3)))
    save_scores(scores, tmp_path / "scores.csv")
    common = Common(SHAPE, 6, scores_file=tmp_path / "scores.csv")
    points = grid_points(axes(heads_per_subnet=["1", "2,1"], compute=[1.0]), common)
    np.testing.assert_array_equal(points[0].setting.scores.forward, scores.forward)
    grouped = points[1].setting.scores.backward
    np.testing.assert_allclose(grouped[0], scores.backward[:2].sum(axis=0))
    np.testing.assert_allclose(grouped[3], scores.backward[5])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=25))
def test_a_front_is_what_no_other_dominates(goals):
    goals = np.array(goals, dtype=float)
    chosen = pareto_front(goals)
    for i, own in enumerate(goals):
        dominated = ((goals <= own).all(axis=1) & (goals < own).any(axis=1)).any()
        equal_chosen = (goals[chosen] == own).all(axis=1).sum()
        assert equal_chosen == (0 if dominated else 1)
        assert not (chosen[i] and dominated)


def test_values_are_lists_and_ranges_with_both_ends():
    assert numbers("--x", "0.2:1:0.2,0.5,1") == [0.2, 0.4, 0.6, 0.8, 1.0, 0.5]
    assert numbers("--x", "0.1:0.34:0.1") == [0.1, 0.2, 0.3]


def test_without_a_dask_scheduler_there_is_one_line_and_no_file(
    d2ft, cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr("analysis.sweeping.run_sweep.DASK_TIMEOUT_S", 0.5)
    out = tmp_path / "out"
    code, printed, err = d2ft(
        "sweep", "--cluster", cluster, *MODEL, "--dask", "tcp://127.0.0.1:1", "--out", out
    )
    assert (code, printed) == (2, "")
    assert "--dask is 'tcp://127.0.0.1:1': no Dask scheduler" in err.splitlines()[-1]
    assert not out.exists()


def test_a_journal_of_something_else_is_refused(tmp_path):
    points = grid_points(axes(), Common(SHAPE, 6))
    path = tmp_path / "points.jsonl"
    for text, said in (
        ('{"format": "other", "version": 1}\n', "is not the journal of a sweep"),
        ('{"format": "d2ft-sweep", "version": 2}\n{"key": 1\n', "line 2 is damaged"),
        ('{"format": "d2ft-sweep", "version": 2}\n[]\n', "line 2 is damaged"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            Sweep(points, tmp_path)
        assert path.read_text() == text
