"""A decoder from its folder to what it says: planned, fine-tuned, gone on with, and asked."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from d2ft_sched.plan.plan_file import load_plan, save_plan
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from decoder_models import small_decoder
from rank_processes import d2ft_on_ranks
from runtime.models.build import build_model
from tiny_tokenizer import SPECIAL, WORDS, save_tiny_tokenizer

CLUSTER = """
name: two
devices:
  - {name: a, compute_flops_per_s: 1e9, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
  - {name: b, compute_flops_per_s: 5e8, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
network: {kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}
"""
BATCH = ["--num-tokens", 12, "--microbatches", 3, "--microbatch-size", 2]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the Hugging Face hub has them, random weights."""
    folder = tmp_path_factory.mktemp("decoder")
    model = small_decoder("smollm2", torch.float32, vocab_size=len(WORDS) + len(SPECIAL))
    model.save_pretrained(folder)
    return save_tiny_tokenizer(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One question and its answer, again and again."""
    folder = tmp_path_factory.mktemp("pairs")
    for part, number in (("train", 12), ("test", 4)):
        rows = [{"prompt": "why is the sea", "completion": "because of the sky"}] * number
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{folder / 'train.jsonl'}"


@pytest.fixture
def run(d2ft: Any, decoder: Path, tmp_path: Path) -> Any:
    """Plan for the decoder, then fine-tune; the arguments of the latter are returned."""

    def start(data: str, *options: Any, lora: bool = True) -> list[Any]:
        (tmp_path / "cluster.yaml").write_text(CLUSTER)
        code, _, err = d2ft(
            "plan", "--cluster", tmp_path / "cluster.yaml", "--model", decoder, *BATCH,
            *(["--lora-rank", 2] if lora else []), "--placement", "balanced",
            "--budget-compute", 0.8, "--out", tmp_path / "plan.json",
        )  # fmt: skip
        assert code == 0, err
        arguments = [
            "finetune", tmp_path / "plan.json", "--data", data, "--device", "cpu",
            "--epochs", 4, *options,
        ]  # fmt: skip
        code, out, err = d2ft(*arguments, "--out", tmp_path / "run", "--json")
        assert code == 0, err
        summary = json.loads(out)
        assert [epoch["epoch"] for epoch in summary["epochs"]] == [0, 1, 2, 3, 4]
        return arguments

    return start


def _evaluations(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["event"] == "evaluated"]


def test_adapters_learn_what_is_said_and_say_it(
    d2ft: Any, run: Any, decoder: Path, pairs: str, tmp_path: Path
) -> None:
    arguments = run(pairs, "--learning-rate", 0.5, "--checkpoint-every", 4)
    folder = tmp_path / "run"
    first, *_, last = _evaluations(folder)
    assert last["perplexity"] == pytest.approx(math.exp(last["loss"]))
    assert last["perplexity"] < 0.75 * first["perplexity"]
    assert (last["num_samples"], last["num_counted"]) == (4, 20)  # four words and the end
    assert not (folder / "adapter" / "class_names.json").exists()

    # gone on from the middle, it is bitwise the same
    checkpoint = folder / "checkpoints" / "step-000004"
    code, _, err = d2ft(*arguments, "--resume", checkpoint, "--out", tmp_path / "rest")
    assert code == 0, err
    whole, rest = (
        load_file(out / "adapter" / "adapter_model.safetensors")
        for out in (folder, tmp_path / "rest")
    )
    assert all(torch.equal(whole[name], rest[name]) for name in whole | rest)

    # plain peft puts the adapters on the untouched model, and so does the command
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(decoder)
    tuned = PeftModel.from_pretrained(base, folder / "adapter").eval()
    asked = torch.tensor([[WORDS.index(word) for word in ["why", "is", "the", "sea"]]])
    end = len(WORDS) + SPECIAL.index("</s>")
    expected = tuned.generate(
        input_ids=asked, max_new_tokens=6, do_sample=False, eos_token_id=end, pad_token_id=end
    )[0, 4:]
    words = " ".join((*WORDS, *SPECIAL)[i] for i in expected if i != end)
    for place in (folder, folder / "adapter"):
        code, out, err = d2ft(
            "generate", place, "--prompt", "why is the sea", "--max-new-tokens", 6, "--json"
        )
        assert code == 0, err
        assert json.loads(out)["text"].split() == words.split()

    # the report says so, too
    code, _, err = d2ft("report", folder)
    assert code == 0, err
    page = (folder / "report.html").read_text()
    assert f"perplexity {last['perplexity']:.4g}" in page
    assert "20 tokens of held-out text after 4 epochs" in page
    assert "top-1" not in page

    # another model's adapters are refused in a line
    code, _, err = d2ft("generate", folder, "--prompt", "why", "--weights", tmp_path / "nowhere")
    assert code == 2
    assert "there is no such file" in err


def test_packed_sequences_and_all_parameters_go_the_same_way(
    d2ft: Any, run: Any, pairs: str, tmp_path: Path
) -> None:
    rows = [{"text": "the sea is blue"}] * 30
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(f"jsonl:{tmp_path / 'a.jsonl'}", "--packed", "--learning-rate", 0.05, lora=False)
    first, *_, last = _evaluations(tmp_path / "run")
    assert last["perplexity"] < first["perplexity"]
    started = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert started["settings"]["packed"]
    code, out, err = d2ft(
        "generate", tmp_path / "run", "--prompt", "the", "--max-new-tokens", 9, "--temperature", 1,
        "--json",
    )  # fmt: skip
    assert code == 0, err
    _, again, _ = d2ft(
        "generate", tmp_path / "run", "--prompt", "the", "--max-new-tokens", 9, "--temperature", 1,
        "--json",
    )  # fmt: skip
    assert json.loads(again)["text"] == json.loads(out)["text"]
    code, _, err = d2ft("generate", tmp_path / "run", "--prompt", "the", "--pretrained")
    assert code == 2
    assert "has weights of its own" in err


@pytest.mark.parametrize("way", ["cut", "replicas"])
def test_ranks_with_frozen_weights_in_bfloat16_train_as_one_process(
    d2ft: Any, decoder: Path, pairs: str, tmp_path: Path, way: str
) -> None:
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    path = tmp_path / "plan.json"
    code, _, err = d2ft(
        "plan", "--cluster", tmp_path / "cluster.yaml", "--model", decoder, *BATCH,
        "--lora-rank", 2, "--precision", "bfloat16", "--optimizer", "sgd",
        "--placement", "balanced", "--budget-compute", 0.8, "--out", path,
    )  # fmt: skip
    assert code == 0, err
    plan = load_plan(path)
    num_subnets = plan.workload.num_subnets
    assert plan.workload.frozen_bytes == 2
    replicas = {
        "cut": [Placement(2, tuple(s % 2 for s in range(num_subnets)), (0, 1, 0), (0,))],
        "replicas": [
            Placement(2, (0,) * num_subnets, (0, 0), (0,)),
            Placement(2, (1,) * num_subnets, (1,)),
        ],
    }[way]
    save_plan(replace(plan, replicas=tuple(Replica(one) for one in replicas)), path)
    arguments = ["finetune", path, "--data", pairs, "--device", "cpu", "--epochs", 2]
    arguments += ["--learning-rate", 0.5, "--schedule", "fixed"]
    assert d2ft(*arguments, "--out", tmp_path / "alone")[0] == 0
    d2ft_on_ranks(2, tmp_path, *arguments, "--out", tmp_path / "ranks")

    alone, ranks = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("alone", "ranks")
    )
    assert alone.keys() == ranks.keys()
    for name, values in alone.items():
        assert ranks[name].dtype == values.dtype == torch.float32, name
        if "lora_B" in name:  # all zeros before
            change = float(values.norm())
            assert change > 0, name
            assert float((ranks[name] - values).norm()) <= 0.03 * change, name
    losses = [[e["loss"] for e in _evaluations(tmp_path / name)] for name in ("alone", "ranks")]
    assert losses[1] == pytest.approx(losses[0], rel=3e-3)


def test_what_cannot_be_said_is_refused_in_a_line(d2ft: Any, decoder: Path, tmp_path: Path) -> None:
    def refused(*arguments: Any) -> str:
        code, _, err = d2ft("generate", *arguments)
        assert code == 2
        assert err.count("\n") == 1
        return err

    assert "of which the tokenizer makes no token" in refused(decoder, "--prompt", " ")
    assert "has positions for 40" in refused(decoder, "--prompt", "why", "--max-new-tokens", 40)
    assert "only a decoder tells text" in refused("vit_tiny_patch16_224", "--prompt", "why")
    assert "it must name a model" in refused(_unnamed(tmp_path), "--prompt", "why")
    (tmp_path / "plan.json").write_text("{}")
    assert "plan.json" in refused(tmp_path, "--prompt", "why")


def _unnamed(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter-of-none"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": null}')
    return folder


def test_a_decoder_keeps_the_weights_of_its_folder(decoder: Path) -> None:
    own: Any = build_model(str(decoder), num_tokens=12, weights=decoder)
    stored = load_file(decoder / "model.safetensors")
    assert torch.equal(own.model.embed_tokens.weight, stored["model.embed_tokens.weight"])
    assert own.lm_head.weight is own.model.embed_tokens.weight
