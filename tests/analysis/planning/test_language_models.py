"""Language models planned by name or by their configuration, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from d2ft_sched.model.decoder_table import known_decoders
from d2ft_sched.plan.plan_file import load_plan

CLUSTER = Path(__file__).parents[3] / "examples/clusters/unequal_gpus_llm.yaml"
Run = Callable[..., tuple[int, str, str]]
LLAMA = (
    "plan", "--cluster", str(CLUSTER), "--model", "Llama-3-8B", "--lora-rank", "16",
    "--precision", "bfloat16", "--microbatches", "4", "--microbatch-size", "1",
)  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with the configuration of a model that takes no time."""
    config = known_decoders()["Qwen/Qwen2.5-0.5B"] | {
        "num_hidden_layers": 2,
        "hidden_size": 56,
        "intermediate_size": 96,
        "vocab_size": 100,
    }
    folder = tmp_path / "small-qwen"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_llama_3_8b_is_planned_on_four_unequal_gpus(d2ft: Run, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    code, out, err = d2ft(*LLAMA, "--out", str(file), "--json")
    assert code == 0, err
    assert "preset t4 has no figures for bfloat16; those for float32 are used" in err
    found = json.loads(out)
    assert found["frozen_precision"] == "bfloat16"
    working = [device for device in found["devices"] if device["num_full"]]
    assert working
    for device in working:
        assert device["frozen_weight_bytes"] < device["peak_memory_bytes"]
        assert device["peak_memory_bytes"] <= device["memory_bytes"]
    plan = load_plan(file)
    held = {d for replica in plan.replicas for d in replica.placement.subnet_device}
    assert {plan.cluster.devices[d].name for d in held} == {device["name"] for device in working}
    assert plan.workload.shape.num_parameters == 8_030_261_248
    assert int(plan.workload.samples.sum()) == 4


def test_the_tables_say_what_fills_memory_in_which_precision(
    d2ft: Run, small: Path, two_equal: Path
) -> None:
    code, out, err = d2ft(
        "plan", "--cluster", str(two_equal), "--model", str(small), "--lora-rank", "2",
        "--precision", "bfloat16", "--out", str(small / "plan.json"),
    )  # fmt: skip
    assert code == 0, err
    assert "frozen weights in bfloat16, what trains in float32" in " ".join(out.split())
    assert "activations" in out


def test_frozen_weights_in_float32_need_twice_the_room(d2ft: Run, small: Path, two_equal) -> None:
    peaks = []
    for precision in ("bfloat16", "float32"):
        code, out, err = d2ft(
            "plan", "--cluster", str(two_equal), "--model", str(small), "--lora-rank", "2",
            "--precision", "bfloat16", "--base-precision", precision, "--json",
            "--out", str(small / f"{precision}.json"), "--num-tokens", "16",
        )  # fmt: skip
        assert code == 0, err
        found = json.loads(out)
        assert found["frozen_precision"] == precision
        peaks.append(max(device["frozen_weight_bytes"] for device in found["devices"]))
    assert peaks[1] == 2 * peaks[0]


@pytest.mark.parametrize("by_file", [False, True])
def test_a_configuration_is_planned_explained_simulated_and_compared(
    d2ft: Run, small: Path, two_equal: Path, by_file: bool
) -> None:
    model = small / "config.json" if by_file else small
    files = [small / "plan.json", small / "less.json"]
    for file, budget in zip(files, ("1", "0.6"), strict=True):
        code, out, err = d2ft(
            "plan", "--cluster", str(two_equal), "--model", str(model), "--num-tokens", "16",
            "--budget-compute", budget, "--out", str(file), "--explain",
        )  # fmt: skip
        assert code == 0, err
        assert str(small.name) in out
    shape = load_plan(files[0]).workload.shape
    assert (shape.name, shape.num_tokens) == (str(small), 16)
    assert (shape.queries_per_head, shape.qkv_bias, shape.tied_vocabulary) == (7, True, True)
    assert d2ft("simulate", str(files[1]))[0] == 0
    assert d2ft("diff", str(files[0]), str(files[1]))[0] == 0


def test_adapters_of_a_plan_by_placement(d2ft: Run, small: Path, two_equal: Path) -> None:
    code, _, err = d2ft(
        "plan", "--cluster", str(two_equal), "--model", str(small), "--num-tokens", "16",
        "--lora-rank", "2", "--placement", "every-device", "--budget-compute", "0.6",
        "--budget-comm", "0.7", "--out", str(small / "plan.json"),
    )  # fmt: skip
    assert code == 0, err
    assert load_plan(small / "plan.json").workload.lora.rank == 2
