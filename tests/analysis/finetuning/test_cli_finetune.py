"""``d2ft finetune``: checkpoints, going on from them, signals, metrics."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel
from safetensors.torch import load_file

from analysis.finetuning.follow import CheckpointPolicy, follow
from analysis.finetuning.read_back import load_finetune_run
from rank_processes import run_alone, start_ranks
from runtime.checkpoint.checkpoint import load_checkpoint
from runtime.checkpoint.facts import TrainingState
from runtime.models.build import build_model
from runtime.training.events import Replanned, Stepped, StepTimes

CLUSTER = """
name: three
devices:
  - {name: a, compute_flops_per_s: 1e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
  - {name: b, compute_flops_per_s: 5e10, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
  - {name: c, compute_flops_per_s: 5e10, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
network: {kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}
"""


@pytest.fixture
def make_plan(made_plan, tiny_vit, tmp_path):
    """Plans for a tiny ViT on three devices."""

    def make(*more: object) -> Path:
        cluster, path = tmp_path / "c.yaml", tmp_path / "plan.json"
        cluster.write_text(CLUSTER)
        return made_plan(
            path, "--placement", "balanced", "--cluster", cluster, "--model", tiny_vit,
            "--microbatches", 4, "--microbatch-size", 1, "--budget-compute", 0.7, *more,
        )  # fmt: skip

    return make


@pytest.fixture
def plan(make_plan):
    return make_plan()


@pytest.fixture
def options(noise_pictures):
    """Five steps an epoch."""
    return [
        "--data", f"imagefolder:{noise_pictures}", "--num-train", 20, "--num-test", 4,
        "--image-size", 32, "--device", "cpu", "--learning-rate", 1e-3,
    ]  # fmt: skip


def events(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_seconds(out: Path) -> list[dict]:
    """Everything that a repetition must give again."""
    return [
        {k: v for k, v in event.items() if k not in ("step_s", "solve_s", "times", "seconds")}
        for event in events(out)
        if event["event"] in ("probed", "stepped", "evaluated")
    ]


def steps(path: Path) -> list[int]:
    return [int(p.name.removeprefix("step-")) for p in sorted(path.glob("step-*"))]


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(d2ft, plan, options, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [
        *options, "--epochs", 2, "--eval-every", 4, "--ema", 0.5, "--clip-norm", 1, "--keep-best",
        "--log", "tensorboard",
    ]  # fmt: skip
    code, _, err = d2ft("finetune", plan, *options, "--checkpoint-every", 3, "--out", whole)
    assert code == 0, err
    assert " samples/s, step " in err
    assert list((whole / "tensorboard").glob("events.*"))
    assert steps(whole / "checkpoints") == [3, 6, 9, 10]
    first = events(whole)[0]
    assert (first["event"], first["version"]) == ("started", 2)
    assert first["provenance"]["seed"] == 0
    assert {e["num_samples"] for e in events(whole) if e["event"] == "stepped"} == {4}

    (parts / "checkpoints").mkdir(parents=True)
    shutil.copytree(whole / "checkpoints/step-000006", parts / "checkpoints/step-000006")
    shutil.copy(whole / "metrics.jsonl", parts)
    shutil.copytree(whole / "best", parts / "best")
    with (parts / "metrics.jsonl").open("a") as file:
        file.write('{"event": "ste')
    code, printed, err = d2ft(
        "finetune", plan, *options, "--checkpoint-every", 2, "--keep", 2, "--resume", "latest",
        "--out", parts, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert without_seconds(parts) == without_seconds(whole)
    assert [e["step"] for e in events(parts) if e["event"] == "resumed"] == [6]
    assert steps(parts / "checkpoints") == [8, 10]
    rows = json.loads(printed)["epochs"]
    assert [row["epoch"] for row in rows] == [0, 0.8, 1, 1.6, 2]
    losses = [e["loss"] for e in events(whole) if e["event"] == "stepped"]
    assert rows[-1]["train_loss"] == pytest.approx(np.mean(losses[-2:]))
    best = json.loads((whole / "best/best.json").read_text())
    assert best == json.loads(printed)["best"] == json.loads((parts / "best/best.json").read_text())
    assert best["step"] == max(rows, key=lambda row: row["test_accuracy"])["step"]
    for folder in ("", "best"):
        weights = [load_file(out / folder / "model.safetensors") for out in (whole, parts)]
        assert weights[0].keys() == weights[1].keys()
        for name, tensor in weights[0].items():
            assert tensor.equal(weights[1][name]), name


def test_running_scores_go_on_bitwise_from_any_step(d2ft, plan, options, tmp_path):
    """Schedules are made 16 at a time, so that most checkpoints are in between."""
    whole = tmp_path / "whole"
    arguments = ["finetune", plan, *options, "--epochs", 4, "--schedule", "running"]
    code, _, err = d2ft(*arguments, "--checkpoint-every", 2, "--out", whole)
    assert code == 0, err
    for step in (6, 16, 18):
        parts = tmp_path / f"from-{step}"
        checkpoint = whole / f"checkpoints/step-{step:06d}"
        code, _, err = d2ft(*arguments, "--resume", checkpoint, "--out", parts)
        assert code == 0, err
        assert without_seconds(parts) == without_seconds(whole)[-len(without_seconds(parts)) :]
        assert events(parts)[-2]["step"] == 20
    broken = whole / "checkpoints/step-000018/running_scores.safetensors"
    broken.write_bytes(broken.read_bytes()[:-8])
    code, _, err = d2ft(*arguments, "--resume", broken.parent, "--out", tmp_path / "broken")
    assert code == 2
    assert "running_scores.safetensors" in err


def test_what_does_not_fit_together_is_refused(d2ft, plan, options, tmp_path):
    out = tmp_path / "out"
    run = ["finetune", plan, *options, "--no-linear-probe", "--out", out]
    assert d2ft(*run, "--epochs", 1, "--checkpoint-every", 2)[0] == 0
    newest = out / "checkpoints/step-000005"

    def refusal(*given: object) -> str:
        before = (out / "metrics.jsonl").read_bytes()
        code, printed, err = d2ft(*given)
        assert (code, printed) == (2, "")
        assert "Traceback" not in err
        assert (out / "metrics.jsonl").read_bytes() == before
        return err.splitlines()[-1]

    elsewhere = ["--out", tmp_path / "other", "--checkpoint-dir", out / "checkpoints"]
    assert f"d2ft: {newest}: is there already" in refusal(*run, *elsewhere, "--epochs", 1)
    resumed = [*run, "--epochs", 1, "--resume"]
    assert f"{newest}: is there already" in refusal(*resumed, newest.with_name("step-000002"))
    assert "has no checkpoint" in refusal(*resumed, tmp_path / "nowhere")
    assert "with --seed 0" in refusal(*resumed, "latest", "--seed", 1)
    model = newest / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    assert f"{model}: is damaged" in refusal(*resumed, newest)
    code, _, err = d2ft(*resumed, "latest")
    assert code == 0
    assert f"d2ft: {model}: is damaged" in err
    assert steps(out / "checkpoints") == [2, 4, 5]


def test_a_folder_of_another_training_is_not_gone_on_in(d2ft, plan, make_plan, options, tmp_path):
    run = ["finetune", plan, *options, "--epochs", 1, "--no-linear-probe"]
    assert d2ft(*run, "--checkpoint-every", 2, "--out", tmp_path / "a")[0] == 0
    assert d2ft(*run, "--dense", "--out", tmp_path / "dense")[0] == 0
    kept = plan.read_bytes()
    make_plan("--budget-compute", 0.9)
    assert d2ft(*run, "--out", tmp_path / "plan")[0] == 0
    plan.write_bytes(kept)
    resumed = [*run, "--resume", tmp_path / "a/checkpoints/step-000002", "--out"]
    for name, why in (("dense", "with dense True"), ("plan", "by another plan")):
        metrics = tmp_path / name / "metrics.jsonl"
        before = metrics.read_bytes()
        code, _, err = d2ft(*resumed, metrics.parent)
        assert code == 2
        assert f"{metrics}: is of a training {why}" in err
        assert metrics.read_bytes() == before


def test_a_training_that_goes_on_in_a_new_folder_can_be_reported(d2ft, plan, options, tmp_path):
    run = ["finetune", plan, *options, "--epochs", 1, "--no-linear-probe"]
    whole = tmp_path / "whole"
    assert d2ft(*run, "--checkpoint-every", 2, "--out", whole)[0] == 0
    resumed = [*run, "--resume", whole / "checkpoints/step-000002", "--out"]
    assert d2ft(*resumed, tmp_path / "with")[0] == 0
    assert without_seconds(tmp_path / "with") == without_seconds(whole)
    (whole / "metrics.jsonl").unlink()
    assert d2ft(*resumed, tmp_path / "without")[0] == 0
    for name, first in (("with", 1), ("without", 3)):
        found = load_finetune_run(tmp_path / name)
        assert (found.steps["step"].tolist(), found.num_done) == ([*range(first, 6)], 5)
        assert d2ft("report", tmp_path / name)[0] == 0


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint(d2ft, plan, options, tmp_path, wait_for_step, sent, code):
    out = tmp_path / "out"
    command = ["finetune", plan, *options, "--no-linear-probe", "--epochs", 8, "--out", out]
    (process,) = start_ranks(run_alone, 1, tmp_path, arguments=[*map(str, command)])
    wait_for_step(out, 2)
    os.kill(process.pid, sent)
    process.join(timeout=200)
    err = (tmp_path / "stderr-0").read_text()
    assert process.exitcode == code, err
    (step,) = steps(out / "checkpoints")
    last = err.splitlines()[-1]
    assert last.startswith(f"d2ft: stopped by {sent.name} after step {step} of 40; checkpoint ")
    assert [e["step"] for e in events(out) if e["event"] == "stepped"][-1] == step
    assert not (out / "model.safetensors").exists()
    if sent == signal.SIGTERM:
        assert d2ft(*command, "--resume", "latest")[0] == 0
        done = [e for e in without_seconds(out) if e["event"] != "probed"]
        assert [e["step"] for e in done if e["event"] == "stepped"] == [*range(1, 41)]
        assert [e["epoch"] for e in done if e["event"] == "evaluated"] == [*range(9)]


def test_a_second_signal_ends_at_once():
    program = (
        "from analysis.console.interruption import noticing_interruption\n"
        "with noticing_interruption() as interruption:\n"
        "    print('ready', flush=True)\n"
        "    while interruption.signal is None: pass\n"
        "    print(interruption.signal.name, flush=True)\n"
        "    while True: pass\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "SIGTERM\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGINT


def test_a_signal_before_a_replanned_step_is_told_saves_that_step(tmp_path):
    trained = []

    def events():
        for step in (1, 2, 3):
            trained.append(step)
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                yield Replanned(step, "slower", (), 0.0)
            yield Stepped(step, 3, 1, 0, 4, 1.0, 1e-3, 1.0, 0.1, 0.0, StepTimes(0.1, 0.0, 0.0))

    def save(folder: Path) -> list[str]:
        (folder / "model.safetensors").write_text(str(trained[-1]))
        return ["model.safetensors"]

    state = TrainingState(0, 3, 3, 1, 0, 0, {}, "x", 1, {})
    outcome = follow(events(), save, state, CheckpointPolicy(tmp_path), lambda event: None)
    assert (outcome.signal, outcome.state.step) == (signal.SIGTERM, 2)
    assert load_checkpoint(outcome.checkpoint).step == 2
    assert (outcome.checkpoint / "model.safetensors").read_text() == "2"


def test_a_plan_of_adapters_leaves_an_adapter_that_peft_loads(d2ft, make_plan, options, tmp_path):
    plan, out = make_plan("--lora-rank", 2, "--lora-alpha", 4), tmp_path / "out"
    arguments = ["finetune", plan, *options, "--epochs", 2, "--no-linear-probe", "--out", out]
    code, _, err = d2ft(*arguments, "--checkpoint-every", 5)
    assert code == 0, err
    steps = [e for e in events(out) if e["event"] == "stepped"]
    assert len({e["flops"] for e in steps}) == 1
    assert not (out / "model.safetensors").exists()
    base = build_model("test_vit4", image_size=32, num_classes=2)
    loaded = PeftModel.from_pretrained(base, str(out / "adapter"))
    assert loaded.peft_config["default"].r == 2
    factors = load_file(out / "adapter" / "adapter_model.safetensors")
    moved = [name for name, t in factors.items() if "lora_B" in name and t.any()]
    assert moved
    again = tmp_path / "again"
    shutil.copytree(out / "checkpoints" / "step-000005", again / "checkpoints" / "step-000005")
    code, _, err = d2ft(*arguments[:-1], again, "--resume", "latest")
    assert code == 0, err
    resumed = load_file(again / "adapter" / "adapter_model.safetensors")
    assert all(resumed[name].equal(tensor) for name, tensor in factors.items())
    make_plan("--lora-rank", 4)
    code, _, err = d2ft(*arguments, "--resume", "latest")
    assert code == 2
    assert "was written with --lora-rank 2; it cannot go on with 4" in err


def test_a_training_that_diverges_ends_with_one_line_and_no_weights(d2ft, plan, options, tmp_path):
    given = [*options[:-2], "--learning-rate", 1e30]
    code, _, err = d2ft("finetune", plan, *given, "--out", tmp_path / "out")
    assert code == 2
    assert "Random weights to begin with" in err
    assert err.splitlines()[-1].startswith("d2ft: the loss of step ")
    assert not (tmp_path / "out/model.safetensors").exists()


def test_a_training_that_has_ended_is_not_replaced(d2ft, plan, options, tmp_path):
    out = tmp_path / "out"
    code, _, err = d2ft("finetune", plan, *options, "--out", out)
    assert code == 0, err
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, _, err = d2ft("finetune", plan, *options, "--seed", 7, "--out", out)
    assert code == 2
    assert err.startswith(f"d2ft: {out}: has a training that has ended")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_an_alpha_without_a_rank_is_refused(d2ft, tmp_path):
    (tmp_path / "c.yaml").write_text(CLUSTER)
    code, _, err = d2ft("plan", "--cluster", tmp_path / "c.yaml", "--lora-alpha", 8)
    assert code == 2
    assert "--lora-alpha is 8 without --lora-rank" in err
