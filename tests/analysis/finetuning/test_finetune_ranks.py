"""``d2ft finetune`` under torchrun: the losses of one process, and checkpoints that others read."""

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file

from analysis.finetuning.data_lock import one_fetches
from rank_processes import d2ft_on_ranks, endings_on_ranks, torchrun
from runtime.checkpoint.checkpoint import find_checkpoint

DEVICE = (
    "{{name: {name}, compute_flops_per_s: {rate}, memory_bytes: 8 GB, "
    "memory_bandwidth_bytes_per_s: 1e10}}"
)
NETWORK = "network: {kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}"


@pytest.fixture
def plan_for(made_plan, tiny_vit, tmp_path):
    """A plan for devices of these rates; mini-batches of five samples."""

    def plan(*rates: float, options: tuple[object, ...] = ()) -> Path:
        devices = [DEVICE.format(name=f"d{i}", rate=rate) for i, rate in enumerate(rates)]
        cluster, path = tmp_path / "cluster.yaml", tmp_path / f"plan{len(rates)}.json"
        cluster.write_text(f"name: test\ndevices: [{', '.join(devices)}]\n{NETWORK}\n")
        return made_plan(
            path, "--placement", "balanced", "--cluster", cluster, "--model", tiny_vit,
            "--microbatches", 5, "--microbatch-size", 1, "--budget-compute", 0.7, *options,
        )  # fmt: skip

    return plan


@pytest.fixture
def options(noise_pictures) -> list[object]:
    """Four steps an epoch; three pictures are in no mini-batch."""
    return [
        "--data", f"imagefolder:{noise_pictures}", "--num-train", 23, "--num-test", 5,
        "--image-size", 32, "--device", "cpu", "--learning-rate", 3e-3, "--schedule", "fixed",
    ]  # fmt: skip


def numbers(out: Path) -> dict[tuple[str, int], float]:
    """Losses of steps and evaluations."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    counted = ("stepped", "step"), ("evaluated", "epoch")
    return {
        (event, r[key]): r["loss"] for r in records for event, key in counted if r["event"] == event
    }


RECIPE = [
    "--optimizer", "nadamw", "--layer-decay", 0.8, "--clip-norm", 0.5, "--warmup", 0.2,
    "--label-smoothing", 0.1, "--ema", 0.5, "--eval-every", 3,
]  # fmt: skip


def workers_of(pid: int) -> list[int]:
    """Processes that `pid` has started (Linux)."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def said(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("d2ft: ")]


def assert_near(path: Path, wanted: Path) -> None:
    """The same tensors, but for the order of sums in float32."""
    got, tensors = load_file(path), load_file(wanted)
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert got[name].allclose(tensor, atol=1e-4), name


def test_ranks_train_as_one_process_and_resume_as_others(d2ft, plan_for, options, tmp_path):
    three, two = plan_for(1e11, 5e10, 3e10), plan_for(5e10, 1e11)
    alone, ranks, fewer, one = (tmp_path / name for name in ("alone", "ranks", "fewer", "one"))
    given = [*options, *RECIPE, "--epochs", 2]
    assert d2ft("finetune", three, *given, "--out", alone)[0] == 0
    wanted = numbers(alone)
    assert len(wanted) == 8 + 5

    d2ft_on_ranks(3, tmp_path, "finetune", three, *given, "--checkpoint-every", 3, "--out", ranks)
    assert numbers(ranks) == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    assert_near(ranks / "model.safetensors", alone / "model.safetensors")

    for out in (fewer, one):
        (out / "checkpoints").mkdir(parents=True)
        shutil.copytree(ranks / "checkpoints/step-000006", out / "checkpoints/step-000006")
        shutil.copy(ranks / "metrics.jsonl", out)
    assert d2ft("finetune", three, *given, "--resume", "latest", "--out", one)[0] == 0
    assert numbers(one) == pytest.approx(wanted, rel=1e-5, abs=1e-5)

    d2ft_on_ranks(2, tmp_path, "finetune", two, *given, "--resume", "latest", "--out", fewer)
    assert "goes on under another plan" in said((tmp_path / "stderr-0").read_text())[0]
    assert d2ft("finetune", two, *given, "--resume", ranks / "checkpoints/step-000006",
                "--out", tmp_path / "two")[0] == 0  # fmt: skip
    after = numbers(tmp_path / "two")
    assert {key: numbers(fewer)[key] for key in after} == pytest.approx(after, rel=1e-5, abs=1e-5)


def test_adapters_train_as_on_one_process_and_resume_as_others(d2ft, plan_for, options, tmp_path):
    lora = ("--lora-rank", 2, "--lora-alpha", 4)
    three = plan_for(1e11, 5e10, 3e10, options=lora)
    two = plan_for(5e10, 1e11, options=lora)
    alone, ranks, fewer = (tmp_path / name for name in ("alone", "ranks", "fewer"))
    given = [*options, *RECIPE, "--epochs", 2]
    assert d2ft("finetune", three, *given, "--out", alone)[0] == 0
    d2ft_on_ranks(3, tmp_path, "finetune", three, *given, "--checkpoint-every", 3, "--out", ranks)
    assert numbers(ranks) == pytest.approx(numbers(alone), rel=1e-5, abs=1e-5)
    adapter = "adapter/adapter_model.safetensors"
    assert_near(ranks / adapter, alone / adapter)
    config = "adapter/adapter_config.json"
    assert (ranks / config).read_text() == (alone / config).read_text()

    (fewer / "checkpoints").mkdir(parents=True)
    shutil.copytree(ranks / "checkpoints/step-000006", fewer / "checkpoints/step-000006")
    shutil.copy(ranks / "metrics.jsonl", fewer)
    d2ft_on_ranks(2, tmp_path, "finetune", two, *given, "--resume", "latest", "--out", fewer)
    assert d2ft("finetune", two, *given, "--resume", ranks / "checkpoints/step-000006",
                "--out", tmp_path / "two")[0] == 0  # fmt: skip
    assert_near(fewer / adapter, tmp_path / "two" / adapter)


def test_running_scores_are_those_of_one_process(d2ft, plan_for, options, tmp_path):
    plan = plan_for(1e11, 5e10, 3e10)
    alone, ranks, again = (tmp_path / name for name in ("alone", "ranks", "again"))
    given = [*options, "--epochs", 2, "--schedule", "running"]
    assert d2ft("finetune", plan, *given, "--out", alone)[0] == 0
    d2ft_on_ranks(3, tmp_path, "finetune", plan, *given, "--checkpoint-every", 3, "--out", ranks)
    assert numbers(ranks) == pytest.approx(numbers(alone), rel=1e-5, abs=1e-5)
    assert d2ft("finetune", plan, *given, "--resume", ranks / "checkpoints/step-000003",
                "--out", again)[0] == 0  # fmt: skip
    after = numbers(again)
    assert len(after) == 8 + 3
    assert {key: numbers(ranks)[key] for key in after} == pytest.approx(after, rel=1e-5, abs=1e-5)


def test_a_rank_that_dies_leaves_a_whole_checkpoint(
    d2ft, plan_for, options, tmp_path, wait_for_step
):
    plan, out = plan_for(1e11, 1e11), tmp_path / "out"
    given = ["finetune", plan, *options, "--no-linear-probe", "--epochs", 40, "--out", out]
    agent = torchrun(2, tmp_path, *given, "--checkpoint-every", 2, "--keep", 2)
    wait_for_step(out, 5)
    os.kill(workers_of(agent.pid)[-1], signal.SIGKILL)
    agent.join(200)
    assert agent.exitcode not in (None, 0)
    (line,) = said((tmp_path / "stderr-0").read_text())
    assert "rank" in line
    assert "ended or did not answer" in line
    found = find_checkpoint(out / "checkpoints")
    assert found.refused == {}
    assert found.state.step >= 4
    assert found.state.num_ranks == 2


def test_a_signal_leaves_a_checkpoint_and_mistakes_are_said_once(
    plan_for, options, tmp_path, wait_for_step
):
    plan, out = plan_for(1e11, 1e11), tmp_path / "out"
    given = ["finetune", plan, *options, "--no-linear-probe", "--epochs", 40, "--out", out]
    agent = torchrun(2, tmp_path, *given)
    wait_for_step(out, 2)
    agent.terminate()
    agent.join(200)
    (line,) = said((tmp_path / "stderr-0").read_text())
    step = find_checkpoint(out / "checkpoints").state.step
    assert line.startswith(f"d2ft: stopped by SIGTERM after step {step} of 160; checkpoint ")
    codes, (line,) = endings_on_ranks(tmp_path, *[given] * 2)
    assert 0 not in codes
    assert "is there already" in line


def test_one_process_at_a_time_fetches_data(tmp_path):
    begun_and_over = []

    def fetch(_: int) -> None:
        with one_fetches(True, tmp_path / "data"):
            begun_and_over.append("begun")
            time.sleep(0.1)
            begun_and_over.append("over")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(fetch, range(3)))
    assert begun_and_over == ["begun", "over"] * 3
