"""Studies end to end on pictures made here: resumed, reused, refused."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis.studying.study_claims import claim
from analysis.studying.study_costs import StepCosts
from analysis.studying.study_file import load_study
from analysis.studying.study_grid import planned_runs
from analysis.studying.study_recipe import Recipe, naive_placement
from analysis.studying.study_summary import markdown, seconds_to_accuracy, summary_table
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.costs.flops import step_flops
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from rank_processes import run_alone, start_ranks

EXAMPLES = Path(__file__).parents[3] / "examples" / "studies"
CLUSTER = """
name: two
devices:
  - {name: a, compute_flops_per_s: 1e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
  - {name: slow, compute_flops_per_s: 4e10, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
network: {kind: full_mesh, bandwidth_bytes_per_s: 1e10, latency_s: 1e-5}
"""
STUDY = """
name: small
data: {name: made, num_train: 24, num_test: 6, image_size: 32, num_classes: 2}
model: {name: test_vit}
minibatch: {num_microbatches: 3, microbatch_samples: 2, heads_per_subnet: 1}
training: {num_epochs: 2, learning_rate: 1.0e-4}
seeds: [0]
clusters: [cluster.yaml]
budgets: [BUDGET]
methods:
METHODS
"""
METHODS = """
  - {name: dense, kind: dense}
  - {name: best, kind: dense, placement: best}
  - {name: without, kind: dense, without: [slow]}
  - {name: data parallel, kind: data_parallel}
  - {name: fewer, kind: fewer_microbatches}
  - {name: fewer by score, kind: fewer_microbatches, select: score}
  - {name: epochs, kind: fewer_epochs}
  - {name: depth, kind: stochastic_depth}
  - {name: heads, kind: random_heads}
  - {name: layers, kind: layer_selection}
  - {name: frozen, kind: frozen_prefix}
  - {name: magnitude, kind: schedule, solver: magnitude}
  - {name: top-k, kind: schedule, solver: top_k}
  - {name: random, kind: schedule, solver: random}
  - {name: two-stage, kind: schedule, solver: two_stage}
  - {name: exact, kind: schedule}
  - {name: aligned, kind: schedule, aligned: true, normalize: block, warmup_steps: 2}
  - {name: forward only, kind: schedule, dropped: forward_only}
  - {name: running, kind: schedule, scores: running}
  - {name: refreshed, kind: schedule, scores: refreshed, refresh_every: 3}
  - {name: random samples, kind: schedule, scores: random, aligned: true}
  - {name: rescaled, kind: schedule, backward_score: uniform, rescale: true, lr_factor: 0.8}
  - {name: covered, kind: schedule, solver: lagrangian, coverage: 1, backward_score: uniform}
  - {name: sloping, kind: schedule, backward_score: uniform, block_slope: 0.4}
  - {name: growing, kind: schedule, backward_score: uniform, growth: 0.49}
"""
COLUMNS = ("compute_fraction", "scoring_compute_fraction", "simulated_step_s", "workload_cv")


@pytest.fixture
def no_pictures(monkeypatch):
    """For tests of what studies train and write down; one has the pictures, too."""
    monkeypatch.setattr("analysis.studying.study_summary.save_both", lambda *_: [])


@pytest.fixture
def study(tmp_path):
    """Writes a study with its cluster and pictures; gives the arguments that run it."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 12), ("test", 6)):
        for name, level in (("bright", 180), ("dark", 70)):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(level - 50, level + 50, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "cluster.yaml").write_text(CLUSTER)

    def write(methods=METHODS, budget="{compute: 0.67}"):
        path = tmp_path / "study.yaml"
        path.write_text(STUDY.replace("BUDGET", budget).replace("METHODS", methods))
        return [
            "study", path, "--data", f"imagefolder:{tmp_path / 'pictures'}", "--out",
            tmp_path / "out", "--device", "cpu",
        ]  # fmt: skip

    return write


def test_every_kind_of_method_costs_what_its_budget_says(d2ft, study, tmp_path):
    code, printed, err = d2ft(*study(), "--json")
    assert code == 0, err
    runs = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("method")
    assert runs["top1"].notna().all()
    assert len(json.loads(printed)["summary"]) == len(runs) == METHODS.count("name:")
    training = runs["compute_fraction"] - runs["scoring_compute_fraction"]
    assert training[["dense", "best", "without", "data parallel"]].to_numpy() == pytest.approx(1)
    assert training["epochs"] == pytest.approx(0.5)
    cheaper = ["fewer", "fewer by score", "depth", "heads", "layers", "frozen", "magnitude",
               "top-k", "random", "two-stage", "exact", "forward only", "running", "refreshed",
               "random samples", "rescaled", "covered", "sloping", "growing"]  # fmt: skip
    assert (training[cheaper] <= 0.72).all()
    assert training["fewer"] == pytest.approx(2 / 3)
    assert training["frozen"] == pytest.approx(training["layers"])
    assert training["frozen"] > 0.6
    assert training["exact"] < training["aligned"] < 1
    assert (runs.loc[["dense", "fewer", "depth"], "scoring_compute_fraction"] == 0).all()
    assert (runs.loc[["exact", "layers"], "scoring_compute_fraction"] > 0).all()
    assert (runs.loc[["running", "random samples"], "scoring_compute_fraction"] == 0).all()
    once = runs.loc["exact", "scoring_compute_fraction"]
    assert runs.loc["refreshed", "scoring_compute_fraction"] == pytest.approx(2 * once, rel=0.5)
    assert runs.loc["best", "simulated_step_s"] <= runs.loc["dense", "simulated_step_s"]
    curves = pd.read_csv(tmp_path / "out" / "curves.csv")
    assert (curves.groupby("key")["epoch"].nunique() == 3).sum() == len(runs) - 1
    for name in ("accuracy_flops_two.png", "accuracy_seconds_two.svg", "summary.csv",
                 "summary.md", "accuracy_measured_two.png", "accuracy_ranked_two.png"):  # fmt: skip
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert (tmp_path / "out" / "provenance.json").exists()


@pytest.mark.usefixtures("no_pictures")
def test_methods_that_train_adapters_cost_fractions_of_full_fine_tuning(d2ft, study, tmp_path):
    methods = """
  - {name: full, kind: dense}
  - {name: lora, kind: dense, lora_rank: 8, lr_factor: 20}
  - {name: d2ft, kind: schedule, lora_rank: 8, lr_factor: 20}
  - {name: fisher, kind: schedule, lora_rank: 8, backward_score: fisher_of_microbatches}
  - {name: running, kind: schedule, lora_rank: 8, scores: running, rescale: true}
  - {name: smaller, kind: smaller_rank, lora_rank: 8, lora_alpha: 16}
  - {name: layers, kind: layer_selection, lora_rank: 8}
  - {name: fewer, kind: fewer_microbatches, lora_rank: 8}
"""
    code, _, err = d2ft(*study(methods, "{compute: 0.8}"))
    assert code == 0, err
    runs = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("method")
    assert runs["top1"].notna().all(), runs["note"]
    training = runs["compute_fraction"] - runs["scoring_compute_fraction"]
    assert training["full"] == pytest.approx(1)
    assert 0.8 < training["lora"] < 1
    assert (training[["d2ft", "fisher", "running", "smaller", "layers", "fewer"]] <= 0.8).all()
    assert training["smaller"] > 0.7
    assert runs["training"].nunique() == len(runs)
    code, _, err = d2ft(
        *study("  - {name: none, kind: smaller_rank, lora_rank: 4}", "{compute: 0.3}")
    )
    runs = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("method")
    assert "no rank is within the budget" in runs.loc["none", "note"]
    code, _, err = d2ft(*study("  - {name: bad, kind: smaller_rank}"))
    assert code == 2
    assert "methods[0].lora_rank is missing; the kind smaller_rank needs it" in err


@pytest.mark.usefixtures("no_pictures")
def test_the_same_training_is_done_once_and_a_second_run_goes_on(d2ft, study, tmp_path):
    methods = "\n".join(METHODS.splitlines()[:3]) + "\n  - {name: fewer, kind: fewer_microbatches}"
    arguments = study(methods)
    code, _, said = d2ft(*arguments, "--max-runs", 1)
    assert code == 0
    assert re.search(r"seed \d: \d+ samples to train on and \d+ to test on", " ".join(said.split()))
    first = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert first["method"].tolist() == ["dense"]
    assert d2ft(*arguments, "--only", "best")[0] == 0
    second = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert second["method"].tolist() == ["dense", "best"]
    assert second["training"].nunique() == 1
    assert second["measured_train_s"].nunique() == 1
    assert d2ft(*arguments)[0] == 0
    third = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert third["method"].tolist() == ["dense", "best", "fewer"]
    assert third["key"][:2].tolist() == second["key"].tolist()
    code, printed, _ = d2ft("study", "--summarize", tmp_path / "out", "--json")
    assert code == 0
    assert [row["method"] for row in json.loads(printed)["summary"]] == third["method"].tolist()


@pytest.mark.usefixtures("no_pictures")
def test_a_step_time_budget_is_kept_on_the_cluster(d2ft, study, tmp_path):
    methods = "\n".join(METHODS.splitlines()[:3])
    methods += "\n  - {name: fewer, kind: fewer_microbatches, placement: best}"
    methods += "\n  - {name: exact, kind: schedule, placement: best}"
    methods += "\n  - {name: epochs, kind: fewer_epochs}"
    code, _, err = d2ft(*study(methods, "{step_time: 0.9}"))
    assert code == 0, err
    runs = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("method")
    target_s = 0.9 * runs.loc["best", "simulated_step_s"]
    assert runs.loc["fewer", "simulated_step_max_s"] <= target_s * 1.001
    assert runs.loc["exact", "simulated_step_s"] <= target_s * 1.02
    assert np.isnan(runs.loc["epochs", "top1"])
    assert "has no plan for a step time" in runs.loc["epochs", "note"]


def test_methods_that_cannot_meet_a_budget_say_so(d2ft, study, tmp_path):
    methods = """
  - {name: layers, kind: layer_selection}
  - {name: frozen, kind: frozen_prefix}
  - {name: growing, kind: schedule, backward_score: uniform, growth: 0.5}
"""
    arguments = study(methods, "{compute: 0.3}")
    path = arguments[1]
    path.write_text(path.read_text().replace("num_train: 24", "num_train: 6"))
    assert "no run has an accuracy" in d2ft(*arguments)[2]
    notes = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("method")["note"]
    for name in ("layers", "frozen"):
        assert notes[name].endswith("runs every block forward; the budget holds less than that")
    assert notes["growing"].endswith("growth has 3 phases, the training 2 steps")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_epochs: 2", "num_epochs: 0", "training.num_epochs is 0"),
        ("{compute: 0.67}", "{compute: 1.5}", r"budgets\[0\].compute is 1.5"),
        ("{compute: 0.67}", "{}", r"budgets\[0\]"),
        ("kind: data_parallel", "kind: pipeline", r"methods\[3\].kind is 'pipeline'"),
        ("name: best,", "name: dense,", r"methods\[1\].name is 'dense'"),
        ("solver: lagrangian, ", "", r"methods\[22\].solver is 'dp'; with coverage"),
        ("kind: random_heads", "kind: random_heads, growth: 0.5", r"methods\[8\].growth is given"),
        ("solver: top_k", "solvr: top_k", "solvr is not a known field"),
        ("kind: random_heads", "kind: random_heads, select: score", r"methods\[8\].select is"),
        ("kind: random_heads", "kind: random_heads, trains: 0.5", r"methods\[8\].trains is given"),
        ("budgets: [{compute: 0.67}]", "budgets: []", r"budgets is empty; the kind fewer_micro"),
    ],
)
def test_a_wrong_study_file_is_one_line(study, tmp_path, old, new, message):
    path = study()[1]
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        load_study(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"), [("two", "'two', as of another cluster"), ("lab/1", "no '/'")]
)
def test_clusters_need_names_of_their_own_for_files(study, tmp_path, name, message):
    path = study()[1]
    path.write_text(path.read_text().replace("[cluster.yaml]", "[cluster.yaml, other.yaml]"))
    other = CLUSTER.replace("4e10", "2e10").replace("name: two", f"name: {name}")
    (tmp_path / "other.yaml").write_text(other)
    with pytest.raises(InputError, match=f"other.yaml: name is .*{message}"):
        planned_runs(load_study(path), tmp_path)


def test_steps_of_many_microbatches_have_costs():
    shape = vision_transformer_shape(
        "made", image_size=28, patch_size=14, width=16, num_blocks=1, num_heads=1, mlp_hidden=16,
        num_classes=2,
    )  # fmt: skip
    workload = Workload(shape, partition_by_heads(shape, 1), (1,) * 300)
    cluster = load_cluster(EXAMPLES / "cluster_equal.yaml")
    recipe = Recipe(np.zeros(0), 1, True, cluster, naive_placement(workload, cluster))
    schedule = uniform_schedule(workload.num_subnets, 300, Operation.FULL)
    assert StepCosts(recipe, workload, workload).of(schedule).flops == step_flops(
        workload, schedule
    )


def test_the_summary_by_hand():
    same = {"cluster": "c", "scoring_compute_fraction": 0.1, "simulated_step_s": 0.5,
            "simulated_total_s": 3.0, "measured_train_s": 7.0, "measured_scoring_s": 1.0,
            "solver_share_of_step": 0.002, "communication_fraction": 0.5,
            "gradient_fraction": 0.25, "peak_memory_bytes": 2e9}  # fmt: skip
    rows = [
        {"method": "full", "budget": "dense", "seed": 0, "top1": 0.8, "workload_cv": 0.0},
        {"method": "full", "budget": "dense", "seed": 1, "top1": 0.6, "workload_cv": 0.0},
        {"method": "plan", "budget": "b", "seed": 1, "top1": 0.55, "workload_cv": 0.2},
        {"method": "none", "budget": "b", "seed": 1, "top1": np.nan, "workload_cv": np.nan},
    ]
    table = summary_table(pd.DataFrame([row | same | {"compute_fraction": 0.6} for row in rows]))
    full, plan = table.to_dict("records")
    assert full["top1_mean"] == pytest.approx(0.7)
    assert full["top1_std"] == pytest.approx(0.02**0.5)
    assert plan["top1_less_dense"] == pytest.approx(-0.05)
    assert plan["workload_variance"] == pytest.approx(0.04)
    assert plan["measured_s"] == 8
    curve = {"cluster": "c", "epoch": 1, "seed": 0, "top1": 0.7, "simulated_s": 1.0}
    curve |= {"method": "full", "budget": "dense", "gradient_fraction": 1.0, "test_loss": 2.5}
    text = markdown(table, pd.DataFrame([curve]))
    assert "| full | dense | 2 | 70.0 \N{PLUS-MINUS SIGN} 14.1 | +0.0 |" in text
    assert "| plan | b | 1 | 55.0 | -5.0 | 60.0\N{NO-BREAK SPACE}% |" in text
    assert "0.040" in text
    assert "0.20 %" in text
    assert "Mean loss held out after epochs:" in text
    assert "| full | dense | 1 | 2.500 |" in text


def test_time_to_accuracy_is_read_off_the_mean_curve():
    curves = pd.DataFrame(
        {
            "cluster": "c", "budget": "b", "method": "m", "seed": [0, 0, 1, 1],
            "epoch": [0, 1, 0, 1], "simulated_s": [0.0, 10.0, 0.0, 10.0],
            "top1": [0.4, 0.7, 0.2, 0.5],
        }
    )  # fmt: skip
    assert seconds_to_accuracy(curves, 0.45)["seconds"].tolist() == [pytest.approx(5.0)]
    assert np.isnan(seconds_to_accuracy(curves, 0.9)["seconds"][0])


@pytest.mark.usefixtures("no_pictures")
def test_two_processes_share_a_folder(d2ft, study, tmp_path):
    methods = "\n".join(METHODS.splitlines()[:4]) + "\n  - {name: fewer, kind: fewer_microbatches}"
    arguments = [str(a) for a in study(methods)]
    (other,) = start_ranks(run_alone, 1, tmp_path, arguments=arguments)
    assert d2ft(*arguments)[0] == 0
    other.join(timeout=200)
    assert other.exitcode == 0
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert runs["method"].tolist() == ["dense", "best", "without", "fewer"]
    assert runs.groupby("training")["measured_train_s"].nunique().eq(1).all()
    curves = pd.read_csv(tmp_path / "out" / "curves.csv")
    assert not curves.duplicated(["key", "epoch"]).any()
    assert list((tmp_path / "out" / "claims").iterdir()) == []


def test_a_claim_is_free_again_after_release_and_after_a_death(tmp_path):
    with claim(tmp_path, "run") as first, claim(tmp_path, "run") as second:
        assert first
        assert not second
    code = """
import os, sys, pathlib
from analysis.studying.study_claims import claim
from analysis.studying.study_costs import StepCosts
with claim(pathlib.Path(sys.argv[1]), "run") as mine:
    os._exit(7 if mine else 1)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 7
    assert (tmp_path / "claims" / "run").exists()
    with claim(tmp_path, "run") as mine:
        assert mine


@pytest.mark.usefixtures("no_pictures")
def test_a_selection_takes_parts_of_the_grid(d2ft, study, tmp_path):
    arguments = study(
        "\n  - {name: dense, kind: dense}\n  - {name: late, kind: dense, num_epochs: 3}"
    )
    arguments[1].write_text(arguments[1].read_text().replace("seeds: [0]", "seeds: [0, 1]"))
    assert d2ft(*arguments, "--seed", 1, "--cluster", "two", "--only", "late")[0] == 0
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert runs[["method", "seed", "compute_fraction"]].to_numpy().tolist() == [["late", 1, 1.5]]
    code, _, err = d2ft(*arguments, "--seed", 7)
    assert code == 2
    assert "--seed is 7; the study has 0, 1" in err


@pytest.mark.usefixtures("no_pictures")
def test_reduced_precision_and_held_out_pictures_are_settings_of_the_file(d2ft, study, tmp_path):
    arguments = study("\n  - {name: dense, kind: dense}")
    path = arguments[1]
    (tmp_path / "pictures" / "test").rename(tmp_path / "unread")
    text = path.read_text().replace("num_classes: 2}", "num_classes: 2, evaluate_on: held_out}")
    path.write_text(text.replace("num_train: 24", "num_train: 12").replace(
        "learning_rate: 1.0e-4", "learning_rate: 1.0e-4, float32_products: medium"))  # fmt: skip
    arguments[3] = f"imagefolder:{tmp_path / 'pictures' / 'train'}"
    code, _, err = d2ft(*arguments)
    assert code == 0, err
    facts = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert facts["settings"]["training"]["float32_products"] == "medium"
    assert facts["settings"]["data"]["evaluate_on"] == "held_out"
    assert torch.get_float32_matmul_precision() == "highest"
