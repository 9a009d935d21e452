"""What ``d2ft plan`` says of a plan on the best way."""

import json

import pytest

CLUSTER = """
name: three
devices:
  - {name: quick, compute_flops_per_s: 1e12, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e11}
  - {name: slow, compute_flops_per_s: 1e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10,
     count: 2}
network: {kind: star, bandwidth_bytes_per_s: 10 Mbit/s, latency_s: 50 us}
"""


@pytest.fixture
def given(tmp_path, tiny_vit) -> list[object]:
    (tmp_path / "three.yaml").write_text(CLUSTER)
    return [
        "plan", "--cluster", tmp_path / "three.yaml", "--model", tiny_vit, "--microbatch-size", 4,
        "--out", tmp_path / "plan.json",
    ]  # fmt: skip


def test_first_comes_the_verdict_and_last_what_to_run(d2ft, given, tmp_path):
    code, printed, err = d2ft(*given)
    assert code == 0, err
    lines = printed.splitlines()
    assert lines[0].startswith("The best dense way is quick alone: ")
    assert "--budget-compute" in lines[0]
    assert "Not used: slow0, slow1" in lines
    assert [line.split()[:3] for line in lines if line.startswith(">")] == [[">", "one", "device"]]
    assert lines[-1].startswith("Run quick alone with all 20 samples")
    assert lines[-1].endswith(f"d2ft finetune {tmp_path / 'plan.json'}")
    assert "beside fewer samples" not in printed  # the same step
    assert "No --scores" not in printed


def test_a_budget_is_held_against_best_dense_and_fewer_samples(d2ft, given):
    code, printed, err = d2ft(*given, "--budget-compute", 0.5)
    assert code == 0, err
    assert "best dense way" in printed.splitlines()[0]
    (step,) = [line for line in printed.splitlines() if line.startswith("step ")]
    assert " less than " in step
    code, printed, err = d2ft(*given, "--budget-compute", 0.5, "--json")
    told = json.loads(printed)
    assert told["plan_step_s"] <= told["fewer_samples_step_s"] < told["best_dense_step_s"]
    assert [way["chosen"] for way in told["ways"]].count(True) == 1
    assert told["command"] in told["sentence"]
