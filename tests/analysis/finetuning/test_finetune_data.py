"""``d2ft finetune`` and its data: what is said, saved and compared of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from rank_processes import codes_of_ranks
from runtime.checkpoint.setting_words import DIGESTS

TWO = """
name: two
devices:
  - {name: a, compute_flops_per_s: 1e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
  - {name: b, compute_flops_per_s: 5e10, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
network: {kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of ten pictures, without compression: all files are of one size."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(256, size=(32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.bmp")
    return folder


@pytest.fixture
def plan(made_plan, tiny_vit, tmp_path):
    cluster, path = tmp_path / "two.yaml", tmp_path / "plan.json"
    cluster.write_text(TWO)
    return made_plan(
        path, "--cluster", cluster, "--model", tiny_vit, "--microbatches", 3,
        "--microbatch-size", 2, "--budget-compute", 0.7,
    )  # fmt: skip


def exchange(one: Path, other: Path) -> None:
    one.rename(one.with_name("between"))
    other.rename(one)
    one.with_name("between").rename(other)


def of_class(folder: Path, old: str, new: str) -> None:
    (folder / old).rename(folder / new)


CHANGES = {
    "class_names_digest": lambda root: of_class(root, "dog", "eel"),
    "training_samples_digest": lambda root: exchange(root / "cat", root / "dog"),
}


def options(plan: Path, out: Path) -> list[object]:
    return [
        "finetune", plan, "--data", "imagefolder:pictures", "--image-size", 32, "--device", "cpu",
        "--epochs", 2, "--no-linear-probe", "--out", out,
    ]  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_training_does_not_go_on_with_other_data(
    d2ft, plan, pictures, tmp_path, monkeypatch, what
):
    monkeypatch.chdir(tmp_path)
    run = options(plan, tmp_path / "out")
    assert d2ft(*run, "--checkpoint-every", 2)[0] == 0
    shutil.rmtree(tmp_path / "out/checkpoints/step-000004")
    CHANGES[what](pictures)
    code, printed, err = d2ft(*run, "--resume", "latest")
    assert (code, printed) == (2, "")
    said = DIGESTS[what.replace("training", "test")]
    line = err.splitlines()[-1]
    assert f"step-000002: was written with another {said}; it goes on with that alone" in line


@pytest.mark.parametrize("what", CHANGES)
def test_ranks_with_other_data_are_named(plan, pictures, tmp_path, what):
    hosts = [tmp_path / "here", tmp_path / "there"]
    for host in hosts:
        shutil.copytree(pictures, host / "pictures")
    CHANGES[what](hosts[1] / "pictures")
    codes = codes_of_ranks(2, tmp_path, *options(plan, tmp_path / "out"), hosts=hosts)
    assert codes == [2, 1]
    said = "".join((tmp_path / f"stderr-{rank}").read_text() for rank in (0, 1))
    assert said.count(f"d2ft: rank 1 has another {DIGESTS[what]} than rank 0") == 1
    assert not (tmp_path / "out/metrics.jsonl").exists()


def test_bad_pictures_split_leftovers_and_names_are_said(
    d2ft, plan, pictures, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for number in ("3", "4"):
        (pictures / "dog" / f"{number}.bmp").write_bytes(b"BM")
    run = options(plan, tmp_path / "out")
    code, _, err = d2ft(*run)
    assert code == 2
    assert "pictures/dog/" in err.splitlines()[-1]
    run.remove("--no-linear-probe")
    code, printed, err = d2ft(*run, "--on-bad-file", "skip", "--json")
    assert code == 0, err
    said = " ".join(err.split())
    for number in ("3", "4"):
        assert f"d2ft: skipped: picture pictures/dog/{number}.bmp cannot be read" in said
    assert "d2ft: 2 samples were skipped by --on-bad-file skip" in said
    summary = json.loads(printed)
    assert len(summary["skipped"]) == 2
    num_train, num_test = summary["num_train"], summary["num_test"]
    assert num_train + num_test == 18
    assert summary["num_left_out_per_epoch"] == num_train % 6 > 0
    assert f"{num_train} samples to train on and {num_test} to test on (drawn with seed 0)" in said
    assert f"leaves out {num_train % 6} of {num_train} training samples" in said
    assert "linear probe" in summary["epoch_0"]
    assert json.loads((tmp_path / "out/class_names.json").read_text()) == ["cat", "dog"]
    assert len(load_file(tmp_path / "out/model.safetensors")["head.bias"]) == 2


def test_ranks_skip_the_same_pictures_and_train_as_one_process(
    d2ft, plan, pictures, tmp_path, monkeypatch
):
    (pictures / "cat" / "1.bmp").write_bytes(b"BM")
    run = [*options(plan, tmp_path / "ranks"), "--on-bad-file", "skip"]
    assert codes_of_ranks(2, tmp_path, *run, hosts=[tmp_path, tmp_path]) == [0, 0]
    monkeypatch.chdir(tmp_path)
    assert d2ft(*options(plan, tmp_path / "one"), "--on-bad-file", "skip")[0] == 0
    losses = []
    for name in ("ranks", "one"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        losses.append([r["loss"] for r in records if r["event"] in ("stepped", "evaluated")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
