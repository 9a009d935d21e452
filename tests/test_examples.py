"""Every script of the gallery runs, says what it found and leaves its files."""

import itertools
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from PIL import Image
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer
from typer.testing import CliRunner

from analysis.cli import app
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
    tested |= {"timm_loop", "trainer_with_lora"}
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


def test_a_plan_in_timms_loop(tmp_path, cluster, capsys):
    rng = np.random.default_rng(0)
    for split, name in itertools.product(("train", "validation"), "ab"):
        folder = tmp_path / "data" / split / name
        folder.mkdir(parents=True)
        for i in range(9):
            pixels = rng.integers(256, size=(40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    plan = tmp_path / "plan.json"
    sizes = ["--microbatches", "4", "--microbatch-size", "2", "--budget-compute", "0.6"]
    d2ft("plan", "--cluster", cluster, *SMALL, *sizes, "--out", plan)
    main = runpy.run_path(str(EXAMPLES / "timm_loop.py"))["main"]
    given = ["--plan", plan, "--data", tmp_path / "data", "--workers", 0, "--out", tmp_path / "out"]
    main([*SMALL, "--epochs", "2", *map(str, given)])
    assert "epoch 2: loss" in capsys.readouterr().out
    assert torch.load(tmp_path / "out" / "model.pt")["head.weight"].shape == (2, 192)


def test_a_plan_in_trainer_with_adapters(tmp_path, cluster):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=16,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    rows = [
        f"{' '.join('abcd' if i % 2 else 'efgh')},{'even' if i % 2 else 'odd'}" for i in range(17)
    ]
    data, plan = tmp_path / "texts.csv", tmp_path / "plan.json"
    data.write_text("text,label\n" + "\n".join(rows) + "\n")
    sizes = ["--num-tokens", "8", "--microbatches", "4", "--microbatch-size", "2"]
    budget = ["--lora-rank", "2", "--budget-compute", "0.6"]
    d2ft("plan", "--cluster", cluster, "--model", folder, *sizes, *budget, "--out", plan)
    main = runpy.run_path(str(EXAMPLES / "trainer_with_lora.py"))["main"]
    given = ["--plan", plan, "--data", data, "--model", folder, "--out", tmp_path / "out"]
    main(["--epochs", "2", *map(str, given)])
    trained = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert any(float(p.abs().sum()) for n, p in trained.named_parameters() if "lora_B" in n)


def d2ft(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
