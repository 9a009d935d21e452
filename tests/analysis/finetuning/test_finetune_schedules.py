"""``d2ft finetune`` with schedules of each mini-batch, and with schedules that change."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rank_processes import d2ft_on_ranks
from runtime.measure.flop_counting import FlopCounter
from runtime.torch_device import Stopwatch
from runtime.training import whole_model


@pytest.fixture
def options(noise_pictures) -> list[object]:
    """Four steps an epoch."""
    return [
        "--data", f"imagefolder:{noise_pictures}", "--num-train", 20, "--num-test", 4,
        "--image-size", 32, "--device", "cpu", "--learning-rate", 1e-3,
    ]  # fmt: skip


def events(out: Path, kind: str) -> list[dict]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == kind]


def losses(out: Path) -> list[float]:
    return [r["loss"] for r in events(out, "stepped")]


def test_each_mini_batch_has_its_schedule_alone_on_ranks_and_after_a_checkpoint(
    d2ft, even_plan, options, tmp_path
):
    alone, ranks, resumed = (tmp_path / name for name in ("alone", "ranks", "resumed"))
    given = [even_plan, *options, "--epochs", 2, "--schedule", "per-minibatch"]
    code, printed, err = d2ft("finetune", *given, "--checkpoint-every", 3, "--out", alone, "--json")
    assert code == 0, err
    (scored,), (probed,) = events(alone, "scored"), events(alone, "probed")
    assert scored["num_minibatches"] == 4
    assert scored["flops"] > 0
    assert 0 <= probed["train_top1"] <= 1
    steps = events(alone, "stepped")
    assert all(0 < s["solve_s"] < s["step_s"] for s in steps)
    assert 0 < json.loads(printed)["solver_share_of_step"] < 1
    by_minibatch = {}
    for step in steps:
        assert by_minibatch.setdefault(step["minibatch"], step["flops"]) == step["flops"]
    fixed = ["--epochs", 2, "--schedule", "fixed", "--out", tmp_path / "fixed"]
    assert d2ft("finetune", even_plan, *options, *fixed)[0] == 0
    assert losses(alone) != losses(tmp_path / "fixed")

    (resumed / "checkpoints").mkdir(parents=True)
    shutil.copytree(alone / "checkpoints/step-000003", resumed / "checkpoints/step-000003")
    code, _, err = d2ft("finetune", *given, "--resume", "latest", "--out", resumed)
    assert code == 2
    assert "scores.safetensors" in err
    shutil.copy(alone / "checkpoints/scores.safetensors", resumed / "checkpoints")
    assert d2ft("finetune", *given, "--resume", "latest", "--out", resumed)[0] == 0
    assert losses(resumed) == losses(alone)[3:]
    assert events(resumed, "scored") == []

    d2ft_on_ranks(2, tmp_path, "finetune", *given, "--out", ranks)
    assert losses(ranks) == pytest.approx(losses(alone), rel=1e-4, abs=1e-5)


def test_samples_drawn_in_each_step_are_the_same_on_ranks_and_after_a_checkpoint(
    d2ft, even_plan, options, tmp_path
):
    alone, ranks, resumed = (tmp_path / name for name in ("alone", "ranks", "resumed"))
    given = [even_plan, *options, "--epochs", 2, "--schedule", "per-step"]
    code, _, err = d2ft("finetune", *given[:-2], "--checkpoint-every", 3, "--out", alone)
    assert code == 0, err
    assert "all subnets leave out the same samples, drawn anew in each step" in err
    assert events(alone, "scored") == []
    (resumed / "checkpoints").mkdir(parents=True)
    shutil.copytree(alone / "checkpoints/step-000003", resumed / "checkpoints/step-000003")
    assert d2ft("finetune", *given, "--resume", "latest", "--out", resumed)[0] == 0
    assert losses(resumed) == losses(alone)[3:]
    d2ft_on_ranks(2, tmp_path, "finetune", *given, "--out", ranks)
    assert losses(ranks) == pytest.approx(losses(alone), rel=1e-4, abs=1e-5)


def test_what_rests_is_chosen_as_the_plan_says(d2ft, two_equal, tiny_vit, options, tmp_path):
    seen = {}
    for resting in ("drawn", "turns"):
        plan, out = tmp_path / f"{resting}.json", tmp_path / resting
        code, _, err = d2ft(
            "plan", "--cluster", two_equal, "--model", tiny_vit, "--microbatches", 5,
            "--microbatch-size", 1, "--budget-comm", 0.5, "--way", "data-parallel",
            "--resting", resting, "--out", plan,
        )  # fmt: skip
        assert code == 0, err
        code, _, err = d2ft("finetune", plan, *options, "--no-linear-probe", "--out", out)
        assert code == 0, err
        assert "is chosen anew in each step" in err
        seen[resting] = losses(out)
    assert seen["drawn"] != seen["turns"]


@pytest.fixture
def flop_clock(monkeypatch) -> Iterator[dict[str, float]]:
    """Steps are timed by the FLOPs that they execute, three times as long after step 8."""
    told = {"now": 0.0, "flops": 0.0, "watches": 0, "slow_after": 8}
    with FlopCounter() as counter:

        def clock() -> float:
            flops = counter.flops
            slowdown = 3.0 if told["watches"] > told["slow_after"] else 1.0
            told["now"] += (flops - told["flops"]) / 1e9 * slowdown
            told["flops"] = flops
            return told["now"]

        def watch(device, _) -> Stopwatch:
            clock()
            told["watches"] += 1
            return Stopwatch(device, clock)

        monkeypatch.setattr(whole_model, "Stopwatch", watch)
        yield told


def test_one_device_that_slows_down_gets_less_and_goes_on_so_from_a_checkpoint(
    d2ft, even_plan, two_equal, tiny_vit, options, tmp_path, flop_clock
):
    out, again = tmp_path / "out", tmp_path / "again"
    given = [even_plan, *options, "--epochs", 5, "--no-linear-probe", "--checkpoint-every", 1]
    code, _, err = d2ft("finetune", *given, "--replan-every", 2, "--out", out)
    assert code == 0, err
    flops = [s["flops"] for s in events(out, "stepped")]
    assert len(set(flops[:8])) == 1
    assert flops[-1] < 0.5 * flops[0]
    changes = events(out, "replanned")
    assert changes[0]["step"] in (10, 12)
    assert "this device: lanes take 3.00 of their first time" in changes[0]["reason"]
    assert f"after step {changes[0]['step']}: this device" in err
    busy_s = [s["times"]["lanes_s"] + s["times"]["rest_s"] for s in events(out, "stepped")]
    assert busy_s[8] == pytest.approx(3 * busy_s[7])
    assert busy_s[-1] < 1.15 * busy_s[7]

    changed = changes[0]["step"]
    (again / "checkpoints").mkdir(parents=True)
    name = f"step-{changed:06d}"
    shutil.copytree(out / "checkpoints" / name, again / "checkpoints" / name)
    given += ["--resume", "latest", "--replan-every", 1000]
    assert d2ft("finetune", *given, "--out", again)[0] == 0
    assert {s["flops"] for s in events(again, "stepped")} == {flops[changed]}

    other, plan = tmp_path / "other", tmp_path / "half.json"
    code, _, err = d2ft(
        "plan", "--cluster", two_equal, "--model", tiny_vit, "--microbatches", 5,
        "--microbatch-size", 1, "--budget-compute", 0.5, "--placement", "every-device",
        "--out", plan,
    )  # fmt: skip
    assert code == 0, err
    shutil.copytree(out / "checkpoints" / name, other / "checkpoints" / name)
    code, _, err = d2ft("finetune", plan, *given[1:], "--out", other)
    assert code == 0, err
    assert "re-planning begins anew: the checkpoint is of another plan" in err
    (plan_flops,) = {s["flops"] for s in events(other, "stepped")}
    assert flops[changed] < plan_flops < flops[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--schedule", "per-minibatch", "--dense"], "--dense leaves nothing to choose"),
        (["--schedule", "per-step", "--dense"], "leave --schedule per-step out"),
        (["--scores", "s.csv"], "--scores is for re-planning"),
        (["--schedule", "per-minibatch", "--scores", "s.csv"], "--scores is for one schedule"),
        (["--schedule", "per-minibatch", "--forward-score", "luck"], "score 'luck' is unknown"),
    ],
)
def test_what_does_not_go_together_is_one_line(d2ft, even_plan, options, tmp_path, given, said):
    code, _, err = d2ft("finetune", even_plan, *options, "--out", tmp_path / "out", *given)
    assert code == 2
    assert said in err
    assert not (tmp_path / "out").exists()
