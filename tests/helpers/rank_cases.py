"""Random plans of small models, drawn from a seed: every process draws the same case from it."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import Partition, Subnet, partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from decoder_models import building_on, fill, packed, padded, small_decoder
from runtime.families.bert_classifier import BertClassifier
from runtime.families.known_families import family_of
from runtime.models.build import shape_of
from runtime.models.peft_adapters import add_adapters

NUM_STEPS = 5
LORA = Lora(3, 4.5)
NUM_TOKENS = 7
BERT_SEEDS = (6, 7, 12, 13, 17, 19)
"""Of cases that are texts."""
DECODER_SEEDS = {22: "llama", 23: "qwen3", 24: "smollm2", 25: "qwen2"}
"""Of cases that are decoders, the last but one of packed texts, and their layouts."""
LORA_SEEDS = (*range(8, 14), 18, 19, 25)
"""Of cases that train adapters."""
SEVERAL_SEEDS = (*range(14, 22), 25)
"""Of cases whose ranks form several replicas, or rest."""
NUM_CASES = 26
MIXES = [(1, 1, 1, 0), (5, 1, 1, 2), (1, 0, 1, 1), (0, 1, 1, 2), (1, 1, 0, 0), (0, 0, 1, 1)]
"""Weights of SHORTCUT, FORWARD_ONLY, FULL and REST in a schedule."""
WAYS = {
    2: [(1, 1), (1,)],
    3: [(2, 1), (1, 1, 1), (1, 1), (2,)],
    4: [(2, 2), (1, 1, 1, 1), (3, 1), (2, 1), (1, 2, 1)],
}
"""Ranks of each replica, by ranks of the job; the others are in none."""


@dataclass(frozen=True)
class Case:
    """A random plan of a small model.

    Attributes:
        schedules: of `NUM_STEPS` steps, int ``[num_subnets, num_microbatches]`` each.
        inputs: of one mini-batch, used in every step.
        key_mask: of the same samples.
    """

    model: nn.Module
    workload: Workload
    replicas: tuple[Replica, ...]
    schedules: list[np.ndarray]
    inputs: Tensor
    labels: Tensor
    key_mask: Tensor | None


def draw_case(seed: int, num_ranks: int, device: str = "cpu") -> Case:
    """One replica, or several of `SEVERAL_SEEDS`; unequal owners and subnets. On device "meta" its
    model has no values; all else is the same."""
    rng = np.random.default_rng([seed, num_ranks])
    model = model_of(seed, device)
    shape = _plain_shape(seed) if seed in LORA_SEEDS else shape_of(model)
    partition = _partition(shape, rng)
    groups = [np.arange(num_ranks)]
    if seed in SEVERAL_SEEDS:
        ways = WAYS[num_ranks]
        sizes_of_groups = ways[seed % len(ways)]
        groups = np.split(rng.permutation(num_ranks), np.cumsum(sizes_of_groups))[:-1]
    replicas = [_draw_replica(partition, num_ranks, group, seed, rng) for group in groups]
    sizes = rng.integers(1, 4, size=sum(r.num_microbatches for r in replicas))
    workload = Workload(
        shape,
        partition,
        tuple(map(int, sizes)),
        element_bytes=8,
        parameter_bytes=8,
        optimizer=["adamw", "sgdm", "sgd"][seed % 3],
        lora=LORA if seed in LORA_SEEDS else None,
        frozen_bytes=8,
    )
    schedules = [_draw_schedule(workload, MIXES[seed % len(MIXES)], rng) for _ in range(NUM_STEPS)]
    generator = torch.Generator().manual_seed(seed)
    num_samples = int(sizes.sum())
    family = family_of(model)
    labels = torch.zeros(0)
    if seed in DECODER_SEEDS:
        inputs, labels = (packed if seed == 24 else padded)(num_samples)
    else:
        inputs = family.random_inputs(model, num_samples, generator)
    if seed not in DECODER_SEEDS and family.key_mask(model, inputs) is not None:
        lengths = torch.randint(2, NUM_TOKENS + 1, (num_samples, 1), generator=generator)
        inputs = torch.where(torch.arange(NUM_TOKENS) < lengths, inputs, 0)
    return Case(
        model=model,
        workload=workload,
        replicas=tuple(replicas),
        schedules=schedules,
        inputs=inputs,
        labels=labels if len(labels) else torch.randint(5, (num_samples,), generator=generator),
        key_mask=family.key_mask(model, inputs),
    )


def _draw_schedule(
    workload: Workload, mix: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """Operations by their weights; where some may rest, some subnets do so everywhere."""
    cells = (workload.num_subnets, workload.num_microbatches)
    schedule = rng.choice(4, size=cells, p=np.array(mix) / sum(mix))
    if mix[Operation.REST]:
        everywhere = rng.random(len(schedule)) < 0.3
        everywhere |= workload.partition.block == rng.integers(-1, workload.shape.num_blocks)
        schedule[everywhere[:, None] & (schedule == Operation.FULL)] = Operation.REST
    return schedule


def _draw_replica(
    partition: Partition, num_ranks: int, group: np.ndarray, seed: int, rng: np.random.Generator
) -> Replica:
    """Of some ranks, one of which owns nothing and one of which holds nothing of a block, if they
    are several."""
    num_microbatches = int(rng.integers(1 if seed in SEVERAL_SEEDS else 2, 6))
    owner = rng.choice(len(group), num_microbatches, p=rng.dirichlet(np.ones(len(group))))
    idle_owner, absent = rng.integers(len(group), size=2)
    owner[owner == idle_owner] = (idle_owner + 1) % len(group)
    device = rng.integers(len(group), size=len(partition))
    of_block = partition.block == rng.integers(partition.num_blocks)
    device[of_block & (device == absent)] = (absent + 1) % len(group)
    if seed % 5 == 4:
        device[device == idle_owner] = (idle_owner + 1) % len(group)
    recomputing = tuple(sorted(group.tolist())[::2]) if seed in DECODER_SEEDS else ()
    placement = Placement(
        num_ranks, tuple(group[device].tolist()), tuple(group[owner].tolist()), recomputing
    )
    num_waves = int(rng.integers(1, 4)) if num_microbatches > 2 else 1
    return Replica(placement, num_waves)


def small_model(
    layer_scale: float | None = None, qkv_bias: bool = True, device: str = "cpu"
) -> VisionTransformer:
    """Three blocks of four heads over 28 pixel images, float64; the same values every time."""
    torch.manual_seed(0)
    with building_on(device):
        model = VisionTransformer(
            img_size=28,
            patch_size=14,
            embed_dim=32,
            depth=3,
            num_heads=4,
            num_classes=5,
            init_values=layer_scale,
            qkv_bias=qkv_bias,
        )
    fill(model, std=0.2)
    return model.double()


def small_bert(device: str = "cpu") -> BertClassifier:
    """Three blocks of four heads over texts of seven tokens, float64; the same every time."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with building_on(device):
        bert = BertModel(config, add_pooling_layer=False)
        model = BertClassifier(bert, 5, name="small", num_tokens=NUM_TOKENS)
    fill(model, std=0.2)
    return model.double()


def _plain_model(seed: int, device: str = "cpu") -> nn.Module:
    if seed in BERT_SEEDS:
        return small_bert(device)
    if seed in DECODER_SEEDS:
        heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
        return small_decoder(DECODER_SEEDS[seed], device=device, **heads)
    return small_model([None, 0.3][seed % 2], seed % 3 > 0, device)


@cache
def _plain_shape(seed: int) -> ModelShape:
    return shape_of(_plain_model(seed, "meta"))


def model_of(seed: int, device: str = "cpu") -> nn.Module:
    """The model of the case of this seed, which is the same for all numbers of ranks."""
    model = _plain_model(seed, device)
    if seed in LORA_SEEDS:
        add_adapters(model, LORA)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def _partition(shape: Any, rng: np.random.Generator) -> Partition:
    if rng.integers(2):
        return partition_by_heads(shape, [1, 2, (1, 3)][rng.integers(3)])
    hidden = shape.mlp_hidden
    subnets = []
    for block in range(shape.num_blocks):
        heads = rng.permutation(shape.num_heads)
        cuts = np.sort(rng.integers(0, hidden + 1, size=2))
        subnets += [
            Subnet(block, tuple(map(int, heads[:2])), 0, int(cuts[0])),
            Subnet(block, (), int(cuts[0]), int(cuts[1])),
            Subnet(block, tuple(map(int, heads[2:])), int(cuts[1]), hidden),
        ]
    return Partition(tuple(subnets), shape.num_blocks, shape.num_heads, hidden)
