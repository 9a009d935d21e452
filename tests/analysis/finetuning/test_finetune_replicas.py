"""``d2ft finetune`` of plans of several replicas on ranks: what one process gets, whichever way."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from d2ft_sched.plan.plan_file import load_plan, save_plan
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from rank_processes import codes_of_ranks, d2ft_on_ranks
from replan_jobs import slowed_command

CLUSTER = """name: test
devices:
{devices}
network: {{kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}}
"""
DEVICE = (
    "- {{name: d{i}, compute_flops_per_s: 1e11, memory_bytes: 8 GB, "
    "memory_bandwidth_bytes_per_s: 1e10}}"
)


@pytest.fixture
def plan_in(made_plan, tiny_vit, tmp_path):
    """A plan at 0.7 of the compute whose micro-batches, of two samples in all but one, are dealt to
    groups of devices; subnets and micro-batches of a group are dealt in turns."""

    def plan(name: str, num_devices: int, *groups: tuple[tuple[int, ...], int]) -> Path:
        cluster, path = tmp_path / "cluster.yaml", tmp_path / f"{name}.json"
        devices = "\n".join(DEVICE.format(i=i) for i in range(num_devices))
        cluster.write_text(CLUSTER.format(devices=devices))
        made_plan(
            path, "--placement", "balanced", "--cluster", cluster, "--model", tiny_vit,
            "--microbatches", 5, "--microbatch-size", 1, "--budget-compute", 0.7,
        )  # fmt: skip
        made = load_plan(path)
        replicas = tuple(
            Replica(
                Placement(
                    num_devices,
                    tuple(of[s % len(of)] for s in range(made.workload.num_subnets)),
                    tuple(of[i % len(of)] for i in range(num_microbatches)),
                ),
                min(2, num_microbatches),
            )
            for of, num_microbatches in groups
        )
        save_plan(replace(made, replicas=replicas), path)
        return path

    return plan


@pytest.fixture
def options(noise_pictures) -> list[object]:
    """Four steps an epoch; three pictures are in no mini-batch."""
    return [
        "--data", f"imagefolder:{noise_pictures}", "--num-train", 23, "--num-test", 5,
        "--image-size", 32, "--device", "cpu", "--learning-rate", 3e-3, "--epochs", 2,
        "--layer-decay", 0.9, "--clip-norm", 0.5, "--ema", 0.6,
    ]  # fmt: skip


def numbers(out: Path) -> dict[tuple[str, int], float]:
    """Losses of steps and evaluations."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    counted = ("stepped", "step"), ("evaluated", "epoch")
    return {
        (event, r[key]): r["loss"] for r in records for event, key in counted if r["event"] == event
    }


def test_ranks_train_as_one_process_and_resume_under_another_way(d2ft, plan_in, options, tmp_path):
    alone, parallel, again = (tmp_path / name for name in ("alone", "parallel", "again"))
    uneven = plan_in("uneven", 3, ((0,), 3), ((2,), 2))
    assert d2ft("finetune", uneven, *options, "--out", alone)[0] == 0
    wanted = numbers(alone)
    assert len(wanted) == 8 + 3
    given = [*options, "--checkpoint-every", 3, "--out", parallel]
    d2ft_on_ranks(2, tmp_path, "finetune", uneven, *given)
    assert numbers(parallel) == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    got = load_file(parallel / "model.safetensors")
    for name, tensor in load_file(alone / "model.safetensors").items():
        assert got[name].allclose(tensor, atol=1e-4), name

    hybrid = plan_in("hybrid", 3, ((0, 2), 4), ((1,), 1))
    (again / "checkpoints").mkdir(parents=True)
    shutil.copytree(parallel / "checkpoints/step-000006", again / "checkpoints/step-000006")
    shutil.copy(parallel / "metrics.jsonl", again)
    resumed = [*options, "--resume", "latest", "--out", again]
    d2ft_on_ranks(3, tmp_path, "finetune", hybrid, *resumed)
    one, checkpoint = tmp_path / "one", parallel / "checkpoints/step-000006"
    assert d2ft("finetune", hybrid, *options, "--resume", checkpoint, "--out", one)[0] == 0
    after = numbers(one)
    assert len(after) == 8 + 3
    assert {key: numbers(again)[key] for key in after} == pytest.approx(after, rel=1e-5, abs=1e-5)


def test_what_ranks_of_replicas_cannot_do_is_refused(plan_in, options, tmp_path):
    plan = plan_in("three", 4, ((0,), 2), ((1, 2), 3))
    for num_ranks, more, said in (
        (2, (), "for 4 devices and uses 3 of them; this job has 2 ranks: start 3 with torchrun"),
        (
            3,
            ("--schedule", "fixed", "--replan-every", 2),
            "--replan-every moves whole samples between replicas; this plan has subnets that do "
            "not the same with all of them",
        ),
    ):
        given = ["finetune", plan, *options, *more, "--out", tmp_path / f"out{num_ranks}"]
        codes = codes_of_ranks(num_ranks, tmp_path, *given)
        assert codes.count(2) == 1
        assert 0 not in codes
        errors = [(tmp_path / f"stderr-{rank}").read_text() for rank in range(num_ranks)]
        assert sum(said in text for text in errors) == 1
        assert not any("Traceback" in text for text in errors)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--dense"], "--replan-every moves samples between the 2 replicas of this plan, on ranks"),
        (["--scores", "s.csv"], "between the 2 replicas of this plan samples move"),
        (["--schedule", "per-minibatch"], "--schedule per-minibatch needs a plan of one replica"),
    ],
)
def test_what_re_planning_of_replicas_does_not_do_is_one_line(
    d2ft, plan_in, options, tmp_path, given, said
):
    plan = plan_in("two", 2, ((0,), 3), ((1,), 2))
    asked = ["--replan-every", 2, *given, "--out", tmp_path / "out"]
    code, _, err = d2ft("finetune", plan, *options, *asked)
    assert code == 2
    assert said in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_what_is_drawn_in_one_replica_stays(d2ft, plan_in, options, tmp_path):
    path = plan_in("one", 1, ((0,), 5))
    plan = load_plan(path)
    rows = tuple("F" * 5 if b == 0 else "R" * 5 for b in plan.workload.partition.block)
    save_plan(replace(plan, schedule_rows=rows), path)
    asked = ["--replan-every", 2, "--out", tmp_path / "out"]
    code, _, err = d2ft("finetune", path, *options, *asked)
    assert code == 2
    assert "is drawn, and one replica has no other to give samples to" in " ".join(err.split())


def test_samples_move_to_the_faster_replica_and_a_checkpoint_goes_on_bitwise(
    d2ft, plan_in, options, noise_pictures, tmp_path
):
    """Pictures are streamed; one rank is slow from its sixth step on."""
    out, again = tmp_path / "out", tmp_path / "again"
    plan = plan_in("even", 2, ((0,), 3), ((1,), 2))
    given = [plan, *options, "--dense", "--workers", 0, "--epochs", 4, "--checkpoint-every", 10]
    first = ["finetune", *given, "--replan-every", 2, "--out", out]
    assert slowed_command(2, tmp_path, *first, slow=1, slowdown=4.0, after=5) == [0, 0]
    said = " ".join((tmp_path / "stderr-0").read_text().split())
    assert "samples on d0: 3 -> 4; samples on d1: 2 -> 1" in said
    assert "every rank that owns some holds, or reads, any of the training samples" in said
    (moved,) = replanned(out)
    assert [(s["devices"], s["num_samples_before"], s["num_samples"]) for s in moved["shares"]] == [
        (["d0"], 3, 4), (["d1"], 2, 1),
    ]  # fmt: skip
    assert 6 < moved["step"] <= 10
    alone = tmp_path / "alone"
    assert d2ft("finetune", *given, "--out", alone)[0] == 0
    assert numbers(out) == pytest.approx(numbers(alone), rel=1e-4, abs=1e-5)

    (again / "checkpoints").mkdir(parents=True)
    shutil.copytree(out / "checkpoints/step-000010", again / "checkpoints/step-000010")
    resumed = ["finetune", *given, "--resume", "latest", "--replan-every", 1000, "--out", again]
    d2ft_on_ranks(2, tmp_path, *resumed)
    after = {key: value for key, value in numbers(out).items() if key in numbers(again)}
    assert len(after) == 6 + 2
    assert numbers(again) == after


def replanned(out: Path) -> list[dict]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [r for r in records if r["event"] == "replanned"]
