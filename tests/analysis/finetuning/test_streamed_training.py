"""``d2ft finetune`` on pictures that are read while they are needed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from d2ft_sched.plan.plan_file import load_plan
from rank_processes import codes_of_ranks
from runtime.data.input_format import PictureFormat
from runtime.data.load_data import load_data
from runtime.data.minibatches import draw_minibatches
from runtime.data.pictures.load_pictures import PictureReading
from runtime.ranks import rank_samples
from runtime.ranks.rank_devices import on_ranks, rank_devices

MODEL, EPOCHS, NUM_TRAIN, NUM_TEST = "model.safetensors", 2, 13, 4


def options(out: Path) -> list[object]:
    """Two steps an epoch, and three pictures that it leaves out."""
    return [
        "--num-train", NUM_TRAIN, "--num-test", NUM_TEST, "--image-size", 32, "--device", "cpu",
        "--epochs", EPOCHS, "--learning-rate", 1e-3, "--out", out,
    ]  # fmt: skip


def losses(out: Path) -> list[float]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [r["loss"] for r in records if r["event"] in ("stepped", "evaluated")]


@pytest.fixture(scope="module")
def plan(d2ft_code, two_equal, tiny_vit, tmp_path_factory) -> Path:
    """Five micro-batches that two devices own in turn."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    code = d2ft_code(
        "plan", "--cluster", two_equal, "--model", tiny_vit, "--microbatches", 5,
        "--microbatch-size", 1, "--budget-compute", 0.7, "--placement", "round-robin",
        "--out", path,
    )  # fmt: skip
    assert code == 0
    return path


@pytest.fixture
def finetune(d2ft, plan, noise_pictures, tmp_path):
    """Train into a folder of this name; gives the folder, and what was said."""

    def run(name: str, *more: object, **at: Path) -> tuple[Path, str]:
        out, data = at.get("out", tmp_path / name), f"imagefolder:{noise_pictures}"
        code, _, err = d2ft("finetune", plan, "--data", data, *options(out), *more)
        assert code == 0, err
        return out, " ".join(err.split())

    return run


def test_streamed_and_held_pictures_train_bitwise_the_same(finetune) -> None:
    held, said_of_held = finetune("held")
    streamed, said = finetune("streamed", "--workers", 1)
    assert "pictures are held in memory: 17 of 32 pixels, 0.0522 MB" in said_of_held
    assert "pictures are read as they are needed, by one worker: as --workers says" in said
    assert losses(streamed) == losses(held)
    assert (streamed / MODEL).read_bytes() == (held / MODEL).read_bytes()


def test_a_training_on_changed_pictures_goes_on_bitwise(finetune) -> None:
    given = ["--augment", "timm", "--checkpoint-every", 3]
    whole, said = finetune("whole", *given, "--workers", 1)
    assert "pictures are read as they are needed, by one worker" in said
    cut = whole.parent / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/step-000004", ignore_errors=True)
    (cut / "provenance.json").unlink()
    finetune("cut", *given, "--workers", 0, "--resume", "latest")
    assert losses(cut) == losses(whole)
    assert (cut / MODEL).read_bytes() == (whole / MODEL).read_bytes()


def test_a_training_does_not_go_on_with_other_changes(d2ft, finetune, plan, noise_pictures):
    out, _ = finetune("out", "--augment", "light", "--workers", 0, "--checkpoint-every", 3)
    given = ["--data", f"imagefolder:{noise_pictures}", *options(out), "--resume", "latest"]
    code, _, err = d2ft("finetune", plan, *given)
    assert code == 2
    assert "was written with --augment light; it cannot go on with none" in err


def test_ranks_read_their_own_pictures_alone_and_train_as_one_process(
    finetune, plan, noise_pictures, tmp_path
):
    hosts = [tmp_path / "here", tmp_path / "there"]
    for rank, host in enumerate(hosts):
        host.mkdir()
        shutil.copytree(noise_pictures, host / "pictures")
        spoil_what_a_rank_does_not_need(host / "pictures", rank, plan)
    run = ["finetune", plan, "--data", "imagefolder:pictures", *options(tmp_path / "ranks")]
    given = ["--augment", "light", "--workers", 0]
    assert codes_of_ranks(2, tmp_path, *run, *given, hosts=hosts) == [0, 0]
    one, _ = finetune("one", *given)
    assert losses(tmp_path / "ranks") == pytest.approx(losses(one), rel=1e-4)


def spoil_what_a_rank_does_not_need(folder: Path, rank: int, plan_file: Path) -> None:
    """All but the first of each class, which is looked at to compare the ranks' folders."""
    plan = load_plan(plan_file)
    data = load_data(
        f"imagefolder:{folder}",
        PictureFormat(32),
        num_train=NUM_TRAIN,
        num_test=NUM_TEST,
        reading=PictureReading(num_workers=0),
    )
    replicas = on_ranks(plan.replicas, rank_devices(plan, 2))
    minibatches = draw_minibatches(NUM_TRAIN, int(plan.workload.samples.sum()), 0)
    needed = rank_samples.training_needs(minibatches, EPOCHS, plan.workload, replicas, rank)
    num_spoilt = 0
    for part, own in (
        (data.train, needed),
        (data.test, rank_samples.testing_owners(NUM_TEST, replicas) == rank),
    ):
        firsts = np.unique(part.labels.numpy(), return_index=True)[1]
        for row in set(np.flatnonzero(~own)) - set(firsts):
            path = part.pictures.files[int(part.indices[row])]
            path.write_bytes(bytes(path.stat().st_size))
            num_spoilt += 1
    assert num_spoilt > 2
