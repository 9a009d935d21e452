"""Commands that run torch, end to end on a small model and pictures made here."""

import json

import numpy as np
import pytest
from PIL import Image

from analysis.results.run_dir import load_run

CLUSTER = """
name: two
devices:
  - {name: a, compute_flops_per_s: 1e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
  - {name: b, compute_flops_per_s: 5e10, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
network: {kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}
"""
MODEL = ["--model", "test_vit", "--image-size", "32"]
BATCH = ["--microbatches", "3", "--microbatch-size", "2"]


@pytest.fixture
def pictures(tmp_path):
    """Two classes of twelve pictures, bright and dark."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for name, level in (("bright", 200), ("dark", 50)):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(level - 50, level + 50, (40, 36, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def cluster(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER)
    return path


@pytest.fixture
def plan(made_plan, cluster, tmp_path):
    return made_plan(
        tmp_path / "plan.json", "--cluster", cluster, *MODEL, *BATCH, "--num-classes", 2,
        "--budget-compute", 0.7,
    )  # fmt: skip


def test_the_demo_does_the_whole_job(d2ft, cluster, pictures, tmp_path):
    out = tmp_path / "demo"
    code, printed, err = d2ft(
        "demo", "--data", f"imagefolder:{pictures}", "--num-train", 18, "--num-test", 6, *MODEL,
        *BATCH, "--cluster", cluster, "--epochs", 1, "--device", "cpu", "--out", out, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(printed)["report"] == str(out / "report.html")
    result = load_run(out)
    assert list(result.measurement.training) == ["dense", "fewer", "plan"]
    for name, step in result.measurement.steps.items():
        assert step.flops == result.prediction.this_device[name].flops
    assert result.measurement.steps["plan"].flops < result.measurement.steps["dense"].flops
    assert result.prediction.cluster["plan"].step_s <= result.prediction.cluster["fewer"].step_s
    assert (out / "report.html").stat().st_size > 100_000
    code, _, _ = d2ft("report", out)
    assert code == 0
    sweep = [*MODEL, "--minibatch-size", 6]
    code, _, err = d2ft(
        "sweep", "--cluster", cluster, *sweep, "--microbatches", 3,
        "--budget-compute", "0.4,0.7,1", "--scale-bandwidth", "0.1,1", "--jobs", 1, "--out", out,
    )  # fmt: skip
    assert code == 0, err
    for picture, file, *options in (
        ("schedule", "plan.json"), ("timeline", "plan.json"), ("workload", "plan.json"),
        ("topology", "plan.json"), ("tradeoff", "sweep.csv"), ("step-time", "sweep.csv"),
    ):  # fmt: skip
        code, _, err = d2ft("plot", picture, out / file, *options, "--out", out / "drawn" / picture)
        assert code == 0, err
        with Image.open(out / "drawn" / f"{picture}.png") as image:
            assert np.ptp(np.asarray(image.convert("L"))) > 100
        assert (out / "drawn" / f"{picture}.svg").read_text().startswith("<?xml")


def test_finetune_writes_metrics_and_loadable_weights(d2ft, plan, pictures, tmp_path):
    out = tmp_path / "run"
    options = ["--data", f"imagefolder:{pictures}", "--image-size", 32, "--epochs", 2, "--json"]
    code, printed, err = d2ft("finetune", plan, *options, "--out", out)
    assert code == 0, err
    assert [e["epoch"] for e in json.loads(printed)["epochs"]] == [0, 1, 2]
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in records if r["event"] == "stepped"]
    code, _, err = d2ft("finetune", plan, *options, "--out", tmp_path / "again")
    again = [json.loads(x) for x in (tmp_path / "again/metrics.jsonl").read_text().splitlines()]
    assert losses == [r["loss"] for r in again if r["event"] == "stepped"]
    code, _, err = d2ft(
        "finetune", plan, *options, "--weights", out / "model.safetensors", "--out", tmp_path / "c"
    )
    assert code == 0, err


def test_profile_writes_what_plan_takes(d2ft, pictures, tmp_path):
    device, shape, scores = (tmp_path / n for n in ("device.yaml", "shape.yaml", "scores.csv"))
    code, _, err = d2ft(
        "profile", *MODEL, *BATCH, "--num-classes", 2, "--repeats", 1, "--out", device,
        "--shape-out", shape, "--scores-out", scores, "--data", f"imagefolder:{pictures}",
    )  # fmt: skip
    assert code == 0, err
    cluster = tmp_path / "mine.yaml"
    cluster.write_text(
        "name: mine\ndevices: [{name: x, file: device.yaml}, {name: y, file: device.yaml}]\n"
        "network: {kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}\n"
    )
    plan = tmp_path / "p.json"
    code, _, err = d2ft(
        "plan", "--cluster", cluster, "--model", shape, *BATCH, "--scores", scores,
        "--budget-compute", 0.5, "--out", plan,
    )  # fmt: skip
    assert code == 0, err
    code, printed, _ = d2ft("simulate", plan, "--json")
    assert code == 0
    assert json.loads(printed)["plan"]["calibrated"] is True
