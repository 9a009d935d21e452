"""Plans in loops of one's own: against untouched models, and against our own steps."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.redrawn import redrawn, resting_units
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from decoder_models import NUM_TOKENS, packed, padded, small_decoder
from masked_operations import SHARES, random_schedule
from own_loops import plan_of, rank_batch, rank_plan, train_under_ddp
from rank_cases import LORA, small_bert, small_model
from rank_processes import start_ranks
from runtime.lanes.slice_schedule import slice_schedule
from runtime.models.build import shape_of
from runtime.models.peft_adapters import add_adapters
from runtime.own_loop.apply_plan import apply_plan
from runtime.partitioned_step import forward_backward
from runtime.ranks.shards import whole_shards
from runtime.training.resting_rows import resting, update

SAMPLES = (2, 1, 2)


def dropping_vit() -> nn.Module:
    """All kinds of dropout that timm's ViT has."""
    torch.manual_seed(0)
    rates = dict.fromkeys(
        ("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"), 0.2
    )
    sizes: dict[str, Any] = {"img_size": 28, "patch_size": 14, "embed_dim": 32, "depth": 3}
    return VisionTransformer(**sizes, num_heads=4, num_classes=5, init_values=0.3, **rates).double()


def bert_of_ones_own() -> nn.Module:
    """transformers' own classifier, pooler, dropout and all."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=12,
        num_labels=5,
    )
    return BertForSequenceClassification(config).double()


def pictures(num_samples: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, 3, 28, 28, generator=generator, dtype=torch.float64)


def texts(num_samples: int, num_tokens: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 30, (num_samples, num_tokens), generator=generator)
    lengths = torch.randint(2, num_tokens + 1, (num_samples, 1), generator=generator)
    mask = (torch.arange(num_tokens) < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def labels_of(num_samples: int) -> Tensor:
    return torch.randint(5, (num_samples,), generator=torch.Generator().manual_seed(2))


def workload_of(model: nn.Module, heads: int = 1, lora: Lora | None = None) -> Workload:
    shape = shape_of(model)
    return Workload(shape, partition_by_heads(shape, heads), SAMPLES, 8, 8, lora=lora)


def trained(model: nn.Module, inputs: Any, num_steps: int = 3) -> dict[str, Tensor]:
    """A loop of one's own, without a plan of its own."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(3)
    for _ in range(num_steps):
        result = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        logits = result.logits if hasattr(result, "logits") else result
        optimizer.zero_grad()
        F.cross_entropy(logits, labels_of(len(logits))).backward()
        optimizer.step()
    return model.state_dict()


def assert_same(got: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == wanted.keys()
    for name, values in wanted.items():
        assert torch.allclose(got[name], values, rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("kind", ["vit", "bert", "bert with texts of another length"])
def test_all_full_is_the_untouched_model_with_its_dropout(kind: str) -> None:
    build = dropping_vit if kind == "vit" else bert_of_ones_own
    inputs = pictures(5) if kind == "vit" else texts(5, 7 if kind == "bert" else 9)
    wanted = trained(build(), inputs)
    model = build()
    small = small_model() if kind == "vit" else small_bert()
    shape = replace(shape_of(small), mlp_hidden=128 if kind == "vit" else 40)
    if kind != "vit":
        shape = replace(shape, width=24, head_dim=6)
    workload = Workload(shape, partition_by_heads(shape, 2), SAMPLES, 8, 8)
    full = uniform_schedule(workload.num_subnets, 3, Operation.FULL)
    apply_plan(model, plan_of(workload, full))
    assert_same(trained(model, inputs), wanted, 1e-9)


DECODERS = ["smollm2", "qwen3", "smollm2, LoRA"]


@pytest.mark.parametrize("kind", ["vit", "bert", "vit, LoRA", "bert, LoRA", *DECODERS])
@pytest.mark.parametrize("seed", range(3))
def test_five_steps_are_those_of_the_command(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    build = partial(small_model, 0.3) if "vit" in kind else small_bert
    if kind in DECODERS:
        build = partial(small_decoder, kind.partition(",")[0])
    lora = LORA if "LoRA" in kind else None
    models = build(), build()
    workload = workload_of(models[0], (1, 3 if kind in DECODERS else 2)[seed % 2], lora)
    if lora is not None:
        for model in models:
            add_adapters(model, lora)
            torch.manual_seed(4)
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    nn.init.normal_(parameter, std=0.2)
    size = workload.num_subnets, workload.num_microbatches
    schedule = random_schedule(rng, size, SHARES[seed]).astype(np.int8)
    schedule[:, seed % 3] = Operation.SHORTCUT
    schedule[0] = Operation.FULL
    inputs = pictures(5) if "vit" in kind else texts(5)["input_ids"]
    labels = labels_of(5)
    if kind in DECODERS:
        inputs, labels = padded(5)

    ours, theirs = models
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-2)
    slices = slice_schedule(workload, schedule)
    left = resting(ours, whole_shards(ours), workload, schedule)
    losses = []
    for _ in range(5):
        losses.append(float(forward_backward(ours, inputs, labels, slices)))
        update(optimizer, left)
        optimizer.zero_grad()

    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    scheduled = apply_plan(theirs, plan_of(workload, schedule), optimizer)
    for wanted in losses:
        taken, targets = scheduled.take((inputs, labels))
        if kind in DECODERS:
            visible = (torch.arange(NUM_TOKENS) < 4).expand(len(taken), -1) | (taken != 0)
            logits = scheduled(input_ids=taken, attention_mask=visible.long()).logits
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
        else:
            loss = F.cross_entropy(scheduled(taken), targets)
        assert float(loss) == pytest.approx(wanted, rel=1e-9)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same(theirs.state_dict(), ours.state_dict(), 1e-8)


def half_resting() -> tuple[nn.Module, Workload, np.ndarray]:
    """Blocks that train or rest, and a micro-batch that is left out: drawn anew in each step."""
    model = small_model(0.3)
    workload = workload_of(model, 2)
    schedule = np.full((workload.num_subnets, 3), Operation.FULL, np.int8)
    schedule[2:] = Operation.REST
    schedule[:, 1] = Operation.SHORTCUT
    return model, workload, schedule


def test_what_rests_is_drawn_anew_as_the_command_draws_it() -> None:
    model, workload, schedule = half_resting()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    scheduled = apply_plan(model, plan_of(workload, schedule), optimizer, seed=7)
    for step in range(6):
        wanted = redrawn(schedule, resting_units(schedule, workload.partition.block), step, 7)
        assert (scheduled.schedule == wanted).all()
        before = copy.deepcopy(model.state_dict())
        batch = scheduled.take({"x": pictures(5), "labels": labels_of(5)})
        optimizer.zero_grad()
        F.cross_entropy(model(batch["x"]), batch["labels"]).backward()
        optimizer.step()
        for block in range(3):
            name = f"blocks.{block}.mlp.fc1.weight"
            trains = (wanted[workload.partition.block == block] == Operation.FULL).any()
            assert torch.equal(model.state_dict()[name], before[name]) == (not trains)
    assert scheduled.num_steps_done == 6


def test_waves_add_up_to_the_batch() -> None:
    gradients = []
    for num_waves in (1, 2):
        model, workload, schedule = half_resting()
        scheduled = apply_plan(model, plan_of(workload, schedule), num_waves=num_waves)
        total = 0.0
        for weight, (inputs, labels) in scheduled.waves((pictures(5), labels_of(5))):
            loss = weight * F.cross_entropy(scheduled(inputs), labels)
            loss.backward()
            total += float(loss)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        gradients[-1]["loss"] = torch.tensor(total, dtype=torch.float64)
    assert_same(gradients[1], gradients[0], 1e-9)


@pytest.mark.parametrize(("num_samples", "num_taken"), [(5, 4), (4, 3), (3, 2), (2, 2), (1, 1)])
def test_a_shorter_batch_has_the_operations_of_its_positions(
    num_samples: int, num_taken: int
) -> None:
    model, workload, schedule = half_resting()
    scheduled = apply_plan(model, plan_of(workload, schedule))
    inputs = scheduled.take(pictures(num_samples))
    assert len(inputs) == num_taken
    assert scheduled(inputs).shape == (num_taken, 5)


def test_a_batch_that_is_left_out_whole_runs_whole() -> None:
    model, workload, schedule = half_resting()
    schedule = schedule[:, [1, 0, 2]]
    workload = replace(workload, microbatch_samples=(1, 2, 2))
    scheduled = apply_plan(model, plan_of(workload, schedule))
    taken = scheduled.take(pictures(1))
    with scheduled.off():
        wanted = model(taken)
    assert torch.allclose(scheduled(taken), wanted)


def test_evaluation_copies_and_what_is_removed_are_the_model_itself() -> None:
    model, workload, schedule = half_resting()
    names = list(model.state_dict())
    wanted = small_model(0.3).eval()(pictures(5))
    scheduled = apply_plan(model, plan_of(workload, schedule))
    assert list(model.state_dict()) == names
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.allclose(copied.train()(pictures(5)), wanted)
    model.load_state_dict(copied.state_dict())
    assert torch.allclose(model.eval()(pictures(5)), wanted)
    with pytest.raises(pickle.PicklingError, match="state_dict"):
        pickle.dumps(model)
    scheduled.remove()
    assert torch.allclose(model.train()(pictures(5)), wanted)
    pickle.dumps(model)


def test_autocast_and_compiled_surroundings() -> None:
    model, workload, schedule = half_resting()
    model.float()
    scheduled = apply_plan(model, plan_of(workload, schedule))
    inputs = scheduled.take(pictures(5).float())
    plain = scheduled(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(scheduled(inputs).float(), plain, atol=0.3, rtol=0.1)
    compiled = torch.compile(model, backend="eager")
    assert torch.allclose(compiled(inputs), plain, atol=1e-5)


def test_ranks_under_ddp_are_one_process(tmp_path: Path) -> None:
    processes = start_ranks(train_under_ddp, 2, tmp_path)
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    model, plan = small_model(0.3), rank_plan()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduled = apply_plan(model, plan, optimizer)
    for _ in range(3):
        inputs, labels = scheduled.take(rank_batch())
        optimizer.zero_grad()
        F.cross_entropy(scheduled(inputs), labels).backward()
        optimizer.step()
    for rank in range(2):
        assert_same(load_file(tmp_path / f"{rank}.safetensors"), model.state_dict(), 1e-9)


def left_padded() -> tuple[dict[str, Tensor], Tensor]:
    """Texts filled up at their beginning, with positions from their own first token on."""
    tokens, _ = padded(5)
    mask = (torch.arange(NUM_TOKENS) >= torch.tensor([[0], [3], [1], [5], [2]])).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    labels = torch.where((mask * positions) > 0, tokens, -100)
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}, labels


def packed_texts() -> tuple[dict[str, Tensor], Tensor]:
    """Two texts in each sample, as transformers takes them."""
    stacked, labels = packed(5)
    return {"input_ids": stacked[:, 0], "position_ids": stacked[:, 1]}, labels


@pytest.mark.parametrize("layout", ["smollm2", "qwen3"])
@pytest.mark.parametrize(
    ("texts_of", "kind"), [(left_padded, "sdpa"), (packed_texts, "sdpa"), (packed_texts, "eager")]
)
def test_texts_lie_in_a_sample_as_transformers_has_them(
    texts_of: Callable[[], tuple[dict[str, Tensor], Tensor]], layout: str, kind: str
) -> None:
    model = small_decoder(layout, attn_implementation=kind)
    workload = workload_of(model)
    inputs, labels = texts_of()

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        logits = model(**inputs, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()} | {"loss": loss}

    wanted = gradients()
    full = uniform_schedule(workload.num_subnets, 3, Operation.FULL)
    apply_plan(model, plan_of(workload, full))
    assert_same(gradients(), wanted, 1e-6)  # angles of positions are float32


def test_what_does_not_fit_is_refused_by_name() -> None:
    model, workload, schedule = half_resting()
    plan = plan_of(workload, schedule)
    with pytest.raises(InputError, match="Linear has no blocks"):
        apply_plan(nn.Linear(3, 3), plan)
    with pytest.raises(InputError, match=r"blocks 2; the plan .* has 3"):
        apply_plan(VisionTransformer(28, 14, embed_dim=32, depth=2, num_heads=4), plan)
    with pytest.raises(InputError, match="width of 48"):
        apply_plan(VisionTransformer(28, 14, embed_dim=48, depth=3, num_heads=4), plan)
    with pytest.raises(InputError, match="normed queries"):
        apply_plan(VisionTransformer(28, 14, depth=3, qk_norm=True), plan)
    with pytest.raises(InputError, match="num_waves is 4"):
        apply_plan(model, plan, num_waves=4)
    adapted = small_model(0.3)
    add_adapters(adapted, LORA)
    with pytest.raises(InputError, match="--lora-rank"):
        apply_plan(adapted, plan)
    with pytest.raises(InputError, match="none on some"):
        apply_plan(small_model(0.3), plan_of(replace(workload, lora=LORA), schedule))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    scheduled = apply_plan(model, plan, optimizer)
    with pytest.raises(InputError, match="under a plan already"):
        apply_plan(model, plan)
    with pytest.raises(InputError, match="leaves out 1 of 5 samples"):
        model(pictures(5))
    with pytest.raises(InputError, match="has 6 samples; the plan is for 5"):
        scheduled.take(pictures(6))
    scheduled.take(pictures(5))
    with pytest.raises(InputError, match="given 5 samples where this step's schedule has 4"):
        model(pictures(5))
    with pytest.raises(InputError, match="closure"):
        optimizer.step(lambda: 0.0)
    with pytest.raises(InputError, match="one number of samples; found 2, 3"):
        scheduled.take((pictures(2), labels_of(3)))
