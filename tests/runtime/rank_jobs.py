"""What the ranks of `test_ranks.py` do: cases drawn from a seed, run, and written to files.

It is run by path in processes of its own; `start_ranks` starts them, and both sides draw the same
case from the same seed.
"""

import multiprocessing
import os
import runpy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from d2ft_sched.errors import InputError, RankError
from d2ft_sched.lora import Lora
from d2ft_sched.partition import Partition, Subnet, partition_by_heads
from d2ft_sched.placement import Placement
from d2ft_sched.workload import Workload
from runtime.exchange import SentBytes
from runtime.families.bert_classifier import BertClassifier
from runtime.families.registry import family_of
from runtime.lora import add_adapters
from runtime.models import shape_of
from runtime.optimizers import create_optimizer
from runtime.rank_model import RankModel, gather_full_state, read_rank_model, scatter_rank_model
from runtime.rank_slices import slice_rank_schedule
from runtime.rank_step import rank_forward_backward
from runtime.rank_wave import RankBatch
from runtime.ranks import Ranks, check_agreement, close_ranks, init_ranks, job_facts
from runtime.shards import Shard, rank_shards
from runtime.tensor_parallel import (
    scatter_tensor_parallel,
    tensor_parallel_forward_backward,
    tensor_parallel_placement,
)

NUM_STEPS = 5
LORA = Lora(3, 4.5)
NUM_TOKENS = 7
BERT_SEEDS = (6, 7, 12, 13)
"""Of cases that are texts."""
LORA_SEEDS = range(8, 14)
"""Of cases that train adapters."""
PRELOADED = [
    "runtime.rank_step",
    "runtime.rank_model",
    "scipy.sparse",
    "transformers.models.bert.modeling_bert",
]
LEARNING_RATE = 1e-3


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
    placement: Placement
    schedules: list[np.ndarray]
    num_waves: int
    inputs: Tensor
    labels: Tensor
    key_mask: Tensor | None


def draw_case(seed: int, num_ranks: int) -> Case:
    """Unequal owners and subnets; one rank owns nothing, one holds nothing of a block."""
    rng = np.random.default_rng([seed, num_ranks])
    model = _model(seed)
    shape = shape_of(_plain_model(seed))
    sizes = rng.integers(1, 4, size=rng.integers(2, 6))
    workload = Workload(
        shape,
        _partition(shape, rng),
        tuple(map(int, sizes)),
        element_bytes=8,
        parameter_bytes=8,
        optimizer=["adamw", "sgdm", "sgd"][seed % 3],
        lora=LORA if seed in LORA_SEEDS else None,
    )
    owner = rng.choice(num_ranks, size=len(sizes), p=rng.dirichlet(np.ones(num_ranks)))
    idle_owner, absent = rng.integers(num_ranks, size=2)
    owner[owner == idle_owner] = (idle_owner + 1) % num_ranks
    device = rng.integers(num_ranks, size=workload.num_subnets)
    of_block = workload.partition.block == rng.integers(shape.num_blocks)
    device[of_block & (device == absent)] = (absent + 1) % num_ranks
    if seed % 5 == 4:
        device[device == idle_owner] = (idle_owner + 1) % num_ranks
    mix = [(1, 1, 1), (5, 1, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0), (0, 0, 1)][seed % 6]
    cells = (workload.num_subnets, workload.num_microbatches)
    schedules = [rng.choice(3, size=cells, p=np.array(mix) / sum(mix)) for _ in range(NUM_STEPS)]
    generator = torch.Generator().manual_seed(seed)
    num_samples = int(sizes.sum())
    family = family_of(model)
    inputs = family.random_inputs(model, num_samples, generator)
    if family.key_mask(model, inputs) is not None:
        lengths = torch.randint(2, NUM_TOKENS + 1, (num_samples, 1), generator=generator)
        inputs = torch.where(torch.arange(NUM_TOKENS) < lengths, inputs, 0)
    return Case(
        model=model,
        workload=workload,
        placement=Placement(num_ranks, tuple(map(int, device)), tuple(map(int, owner))),
        schedules=schedules,
        num_waves=int(rng.integers(1, 4)) if len(sizes) > 2 else 1,
        inputs=inputs,
        labels=torch.randint(5, (num_samples,), generator=generator),
        key_mask=family.key_mask(model, inputs),
    )


def small_model(
    layer_scale: float | None = None, qkv_bias: bool = True, device: str = "cpu"
) -> VisionTransformer:
    """Three blocks of four heads over 28 pixel images, float64; the same values every time."""
    torch.manual_seed(0)
    with torch.device(device):
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
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
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
    with torch.device(device):
        bert = BertModel(config, add_pooling_layer=False)
        model = BertClassifier(bert, 5, name="small", num_tokens=NUM_TOKENS)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.double()


def _plain_model(seed: int, device: str = "cpu") -> nn.Module:
    if seed in BERT_SEEDS:
        return small_bert(device)
    return small_model([None, 0.3][seed % 2], seed % 3 > 0, device)


def _model(seed: int, device: str = "cpu") -> nn.Module:
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


def start_ranks(
    job: str, num_ranks: int, folder: Path, path: str = __file__, **options: Any
) -> list[multiprocessing.process.BaseProcess]:
    """Start `num_ranks` processes that call the function named `job` of the file `path`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    started = []
    for rank in range(num_ranks):
        given = {"job": job, "rank": rank, "num_ranks": num_ranks, "folder": folder}
        process = context.Process(
            target=runpy.run_path,
            args=(path,),
            kwargs={"init_globals": {"given": given | options}, "run_name": "__rank__"},
            daemon=True,
        )
        process.start()
        started.append(process)
    return started


def join(rank: int, num_ranks: int, folder: Path, timeout_s: float = 60.0) -> Ranks:
    method = f"file://{folder}/store-{num_ranks}"
    return init_ranks(
        "cpu", timeout_s=timeout_s, init_method=method, rank=rank, num_ranks=num_ranks
    )


def equal_steps(rank: int, num_ranks: int, folder: Path, seeds: list[int]) -> None:
    """Run every case and write what this rank got to ``NUM_RANKS-SEED-RANK.safetensors``."""
    ranks = join(rank, num_ranks, folder)
    for seed in seeds:
        case = draw_case(seed, num_ranks)
        model = _load(case, seed, ranks, folder)
        result = _gradients(case, model)
        result |= {f"full.{k}": v for k, v in _train(case, model).items()}
        save_file(result, folder / f"{num_ranks}-{seed}-{rank}.safetensors")
    close_ranks(ranks)


def _load(case: Case, seed: int, ranks: Ranks, folder: Path) -> RankModel:
    on_meta = _model(seed, "meta")
    if seed % 2:
        path = folder / f"model-{seed}.safetensors"
        return read_rank_model(on_meta, path, case.workload, case.placement, ranks)
    source = case.model if ranks.rank == 0 else on_meta
    return scatter_rank_model(source, case.workload, case.placement, ranks)


def _step(case: Case, model: RankModel, schedule: np.ndarray, **options: Any) -> Tensor:
    slices = slice_rank_schedule(
        case.workload, case.placement, schedule, model.ranks.rank, case.num_waves
    )
    own = slices.owned_samples
    batch = RankBatch(case.inputs[own], case.labels[own], case.key_mask)
    return rank_forward_backward(model, batch, slices, **options)


def _gradients(case: Case, model: RankModel) -> dict[str, Tensor]:
    counted = SentBytes(model.ranks.num_ranks)
    loss = _step(case, model, case.schedules[0], counted=counted)
    result = {"loss": loss, "bytes.all_reduce": torch.from_numpy(counted.all_reduce)}
    for phase, sent in counted.exchanges.items():
        result[f"bytes.{'.'.join(map(str, phase))}"] = torch.from_numpy(sent)
    result |= _named_gradients("gradient", model)
    result["overlapped.loss"] = _step(case, model, case.schedules[0], overlap=True)
    return result | _named_gradients("overlapped", model)


def _named_gradients(prefix: str, model: RankModel) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": parameter.grad.clone()
        for name, parameter in model.module.named_parameters()
        if parameter.requires_grad
    }


def _train(case: Case, model: RankModel) -> dict[str, Tensor]:
    optimizer = create_optimizer(model.module, case.workload.optimizer, lr=LEARNING_RATE)
    for schedule in case.schedules:
        _step(case, model, schedule)
        optimizer.step()
    return gather_full_state(model)


def tensor_parallel_step(
    rank: int, num_ranks: int, folder: Path, num_heads: tuple[int, ...]
) -> None:
    """One dense step; what this rank got in ``tensor-parallel-RANK.safetensors``."""
    ranks = join(rank, num_ranks, folder)
    case = draw_case(1, num_ranks)
    source = case.model if rank == 0 else _model(1, "meta")
    model = scatter_tensor_parallel(source, case.workload, num_heads, ranks)
    counted = SentBytes(num_ranks)
    loss = tensor_parallel_forward_backward(model, case.inputs, case.labels, counted=counted)
    result = {"bytes": torch.from_numpy(counted.all_reduce)}
    if loss is not None:
        result["loss"] = loss
        for name, parameter in model.module.named_parameters():
            result[f"gradient.{name}"] = parameter.grad.clone()
    save_file(result, folder / f"tensor-parallel-{rank}.safetensors")
    close_ranks(ranks)


def tensor_parallel_shards(case: Case, num_heads: tuple[int, ...]) -> list[tuple[Shard, ...]]:
    """What each rank holds."""
    workload, placement = tensor_parallel_placement(case.workload, num_heads)
    return [rank_shards(case.model, workload, placement, rank) for rank in range(len(num_heads))]


def fail(rank: int, num_ranks: int, folder: Path, culprit: int, how: str, timeout_s: float) -> None:
    """Run steps until the culprit dies or hangs; the others write what they say."""
    case = draw_case(0, num_ranks)
    ranks = join(rank, num_ranks, folder, timeout_s)
    model = _load(case, 0, ranks, folder)
    try:
        for step in range(1000):
            if rank == culprit and step == 1:
                os._exit(1) if how == "dies" else time.sleep(3600)
            _step(case, model, np.full_like(case.schedules[0], 2))
    except RankError as error:
        (folder / f"said-{rank}").write_text(f"{error.speaks} {error}")


def disagree(rank: int, num_ranks: int, folder: Path) -> None:
    """Compare facts that rank 1 has otherwise, then a plan for another number of devices."""
    ranks = join(rank, num_ranks, folder)
    model = small_model(layer_scale=0.1 if rank == 1 else None)
    said = []
    for facts, num_devices in [
        (job_facts("plan", model), num_ranks),
        (job_facts(f"plan {rank > 0}", small_model()), num_ranks),
        (job_facts("plan", small_model()), num_ranks + 1),
        (job_facts("plan", small_model()), num_ranks),
    ]:
        try:
            check_agreement(ranks, facts, num_devices)
            said.append("agreed")
        except InputError as error:
            said.append(str(error))
    (folder / f"said-{rank}").write_text("\n".join(said))
    close_ranks(ranks)


def come_alone(rank: int, num_ranks: int, folder: Path) -> None:
    """Wait for others that never come."""
    try:
        join(rank, num_ranks + 1, folder, timeout_s=2.0)
    except RankError as error:
        (folder / f"said-{rank}").write_text(f"{error.speaks} {error}")


JOBS: dict[str, Callable[..., None]] = {
    job.__name__: job for job in (equal_steps, tensor_parallel_step, fail, disagree, come_alone)
}

if __name__ == "__rank__":
    torch.set_num_threads(1)
    options = globals()["given"]
    JOBS[options.pop("job")](**options)
