"""The commands on texts: a tiny BERT profiled, planned, trained, validated and studied."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from d2ft_sched.plan.plan_file import load_plan
from rank_processes import d2ft_on_ranks

CLUSTER = """
name: two
devices:
  - {name: a, compute_flops_per_s: 1e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
  - {name: b, compute_flops_per_s: 4e10, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
network: {kind: full_mesh, bandwidth_bytes_per_s: 1e10, latency_s: 1e-5}
"""
STUDY = """
name: texts
data: {name: "texts:TABLE", num_train: 12, num_test: 6, num_tokens: 8, num_classes: 2}
model: {name: FOLDER}
minibatch: {num_microbatches: 2, microbatch_samples: 3}
training: {num_epochs: 1}
seeds: [0]
clusters: [cluster.yaml]
budgets: [{compute: 0.6}]
methods:
  - {name: dense, kind: dense}
  - {name: fewer, kind: fewer_microbatches}
  - {name: exact, kind: schedule}
"""


@pytest.fixture
def table(tmp_path: Path, write_table: Callable[..., Path], two_topics: Callable) -> Path:
    return write_table(tmp_path / "news.tab", two_topics(14))


@pytest.fixture
def plan(d2ft: Callable, tiny_bert: Path, tmp_path: Path) -> Path:
    """For two devices, of a shape that 'd2ft profile' wrote; every device is used."""
    cluster, shape, path = (tmp_path / n for n in ("cluster.yaml", "shape.yaml", "plan.json"))
    cluster.write_text(CLUSTER)
    code, _, err = d2ft(
        "profile", "--model", tiny_bert, "--num-tokens", 8, "--num-classes", 2, "--repeats", 1,
        "--microbatches", 2, "--microbatch-size", 2, "--shape-out", shape, "--device", "cpu",
        "--out", tmp_path / "device.yaml",
    )  # fmt: skip
    assert code == 0, err
    code, _, err = d2ft(
        "plan", "--cluster", cluster, "--model", shape, "--microbatches", 4, "--placement",
        "every-device", "--microbatch-size", 1, "--budget-compute", 0.7, "--out", path,
    )  # fmt: skip
    assert code == 0, err
    return path


def losses(out: Path) -> list[float]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [r["loss"] for r in records if r["event"] in ("stepped", "evaluated")]


def test_a_known_bert_is_planned_by_name(d2ft: Callable, tmp_path: Path) -> None:
    cluster, path = tmp_path / "cluster.yaml", tmp_path / "plan.json"
    cluster.write_text(CLUSTER)
    code, _, err = d2ft(
        "plan", "--cluster", cluster, "--model", "minilm-l6", "--num-tokens", 64, "--num-classes",
        20, "--heads-per-subnet", 4, "--out", path,
    )  # fmt: skip
    assert code == 0, err
    shape = load_plan(path).workload.shape
    assert (shape.num_blocks, shape.num_tokens, shape.norm_first) == (6, 64, False)


def test_finetune_alone_and_on_two_ranks_and_in_plain_transformers(
    d2ft: Callable, plan: Path, table: Path, tmp_path: Path
) -> None:
    from transformers import BertModel

    options = [
        "--data", f"texts:{table}", "--num-train", 20, "--num-test", 8, "--epochs", 2,
        "--device", "cpu", "--learning-rate", 1e-3,
    ]  # fmt: skip
    alone, ranks, resumed = tmp_path / "alone", tmp_path / "ranks", tmp_path / "resumed"
    code, _, err = d2ft("finetune", plan, *options, "--checkpoint-every", 5, "--out", alone)
    assert code == 0, err
    d2ft_on_ranks(2, tmp_path, "finetune", plan, *options, "--out", ranks)
    assert len(losses(alone)) == 13
    assert losses(ranks) == pytest.approx(losses(alone), rel=1e-4)
    assert losses(alone)[-1] < losses(alone)[0]

    resume = alone / "checkpoints/step-000005"
    code, _, err = d2ft("finetune", plan, *options, "--resume", resume, "--out", resumed)
    assert code == 0, err
    assert losses(resumed)[-5:] == losses(alone)[-5:]
    for folder in (alone, ranks, resume):
        plain = BertModel.from_pretrained(folder, add_pooling_layer=False)
        assert plain.config.num_hidden_layers == 2
        ids = torch.tensor([[2, 5, 3]])
        assert plain(input_ids=ids).last_hidden_state.shape == (1, 3, 24)


def test_validate_measures_a_text_model(d2ft: Callable, tiny_bert: Path, tmp_path: Path) -> None:
    code, printed, err = d2ft(
        "validate", "--model", tiny_bert, "--num-tokens", 8, "--num-classes", 2, "--microbatches",
        2, "--microbatch-size", 2, "--heads-per-subnet", 2, "--repeats", 1, "--device", "cpu",
        "--out", tmp_path / "validation", "--json",
    )  # fmt: skip
    assert code == 0, err
    rows = json.loads(printed)["plans"]
    assert all(row["measured_flops"] == row["predicted_flops"] for row in rows)


def test_a_study_of_texts(d2ft: Callable, tiny_bert: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    study, out = tmp_path / "study.yaml", tmp_path / "study"
    study.write_text(STUDY.replace("TABLE", str(table)).replace("FOLDER", str(tiny_bert)))
    code, _, err = d2ft("study", study, "--out", out, "--device", "cpu")
    assert code == 0, err
    rows = pd.read_csv(out / "runs.csv")
    assert set(rows.method) == {"dense", "fewer", "exact"}
    assert rows.top1.between(0, 1).all()


def test_pictures_for_a_text_model_are_refused(d2ft: Callable, plan: Path) -> None:
    code, _, err = d2ft("finetune", plan, "--data", "mnist-subset")
    assert code == 2
    assert "are no texts" in err
