"""What ranks do in tests: run drawn cases, fail or disagree, and write to files what they got."""

import os
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from d2ft_sched.errors import InputError, RankError
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.waves import running_samples
from lane_devices import MERGING_DEVICES
from rank_cases import Case, draw_case, model_of, small_model
from rank_processes import join
from runtime.data.dataset import Dataset, Split
from runtime.data.minibatches import draw_minibatches
from runtime.models.optimizers import create_optimizer
from runtime.ranks.agreement import together
from runtime.ranks.all_to_all import SentBytes
from runtime.ranks.job import Ranks, check_agreement, close_ranks, job_facts
from runtime.ranks.rank_model import (
    RankModel,
    read_rank_model,
    scatter_rank_model,
)
from runtime.ranks.rank_slices import RankSlices, slice_rank_schedule
from runtime.ranks.rank_step import rank_forward_backward
from runtime.ranks.shards import Shard, rank_shards
from runtime.ranks.tensor_parallel import (
    scatter_tensor_parallel,
    tensor_parallel_forward_backward,
    tensor_parallel_placement,
)
from runtime.ranks.wave.rank_wave import RankBatch
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.rank_part import RankPart
from runtime.training.resting_rows import resting, update

LEARNING_RATE = 1e-3


def equal_steps(rank: int, num_ranks: int, folder: Path, seeds: list[int]) -> None:
    """Run every case and write what this rank got to ``NUM_RANKS-SEED-RANK.safetensors``; rank 0
    also the whole models, joined from what every rank says of them, to ``NUM_RANKS-SEED-full``."""
    ranks, said = join(rank, num_ranks, folder), {}
    for seed in seeds:
        case = draw_case(seed, num_ranks, "meta" if rank or seed % 2 else "cpu")
        model = _load(case, seed, ranks, folder)
        steps = [(schedule, _sliced(case, ranks, schedule)) for schedule in case.schedules]
        result = _gradients(case, model, *steps[0])
        result |= _train(case, model, steps)
        save_file(result, folder / f"{num_ranks}-{seed}-{rank}.safetensors")
        said[seed] = [model.written_shards(other) for other in range(num_ranks)]
    dist.barrier()
    if rank == 0:
        for seed, shards in said.items():
            held = [
                load_file(folder / f"{num_ranks}-{seed}-{r}.safetensors") for r in range(num_ranks)
            ]
            save_file(_joined(shards, held), folder / f"{num_ranks}-{seed}-full.safetensors")
    close_ranks(ranks)


def _load(case: Case, seed: int, ranks: Ranks, folder: Path) -> RankModel:
    if seed % 2:
        path = folder / f"model-{seed}.safetensors"
        return read_rank_model(case.model, path, case.workload, case.replicas, ranks)
    return scatter_rank_model(case.model, case.workload, case.replicas, ranks)


def _sliced(case: Case, ranks: Ranks, schedule: np.ndarray) -> RankSlices:
    merging = MERGING_DEVICES[int(schedule.sum()) % len(MERGING_DEVICES)]
    devices = [merging] * ranks.num_ranks
    return slice_rank_schedule(case.workload, case.replicas, schedule, ranks.rank, devices)


def _step(
    case: Case, model: RankModel, schedule: np.ndarray, slices: RankSlices, **options: object
) -> Tensor:
    own = slices.owned_samples
    runs = torch.from_numpy(running_samples(schedule, case.workload.samples))
    num_counted = model.family.num_counted(case.labels[runs]).sum()
    batch = RankBatch(case.inputs[own], case.labels[own], num_counted, case.key_mask)
    return rank_forward_backward(model, batch, slices, **options)


def _gradients(
    case: Case, model: RankModel, schedule: np.ndarray, slices: RankSlices
) -> dict[str, Tensor]:
    counted = SentBytes(model.ranks.num_ranks)
    loss = _step(case, model, schedule, slices, counted=counted)
    result = {"loss": loss, "bytes.all_reduce": torch.from_numpy(counted.all_reduce)}
    for phase, sent in counted.exchanges.items():
        result[f"bytes.{'.'.join(map(str, phase))}"] = torch.from_numpy(sent)
    result |= _named_gradients("gradient", model)
    result["overlapped.loss"] = _step(case, model, schedule, slices, overlap=True)
    return result | _named_gradients("overlapped", model)


def _named_gradients(prefix: str, model: RankModel) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": parameter.grad.clone()
        for name, parameter in model.module.named_parameters()
        if parameter.grad is not None
    }


def _train(
    case: Case, model: RankModel, steps: Sequence[tuple[np.ndarray, RankSlices]]
) -> dict[str, Tensor]:
    optimizer = create_optimizer(model.module, case.workload.optimizer, lr=LEARNING_RATE)
    for schedule, slices in steps:
        _step(case, model, schedule, slices)
        update(optimizer, resting(model.module, model.own_shards, case.workload, schedule))
    return {f"held.{name}": p.detach() for name, p in model.module.named_parameters()}


def _joined(
    said: Sequence[Sequence[Shard]], held: Sequence[dict[str, Tensor]]
) -> dict[str, Tensor]:
    full: dict[str, Tensor] = {}
    for shards, parts in zip(said, held, strict=True):
        for shard in shards:
            part = parts[f"held.{shard.name}"]
            full.setdefault(shard.name, torch.empty(shard.full_shape, dtype=part.dtype))
            shard.put(part, full[shard.name])
    return full


def tensor_parallel_step(
    rank: int, num_ranks: int, folder: Path, num_heads: tuple[int, ...], seed: int
) -> None:
    """One dense step of a case; what this rank got in ``tensor-parallel-RANK.safetensors``."""
    ranks = join(rank, num_ranks, folder)
    case = draw_case(seed, num_ranks)
    source = case.model if rank == 0 else model_of(seed, "meta")
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
    replicas = (Replica(placement),)
    return [rank_shards(case.model, workload, replicas, rank) for rank in range(len(num_heads))]


def fail(
    rank: int, num_ranks: int, folder: Path, culprit: int, how: str, timeout_s: float, port: int
) -> None:
    """Run steps until the culprit dies, hangs or freezes; the others write what they say."""
    if how == "freezes":  # with the store, which answers no sooner the longer one waits
        patch("runtime.ranks.job.GRACE_OF_MANY_S", 1.0).start()
    case = draw_case(0, num_ranks)
    ranks = join(rank, num_ranks, folder, timeout_s, port)
    model = _load(case, 0, ranks, folder)
    dense = np.full_like(case.schedules[0], 2)
    slices = _sliced(case, ranks, dense)
    try:
        for step in range(1000):
            if rank == culprit and step == 1:
                if how == "freezes":
                    os.kill(os.getpid(), signal.SIGSTOP)
                os._exit(1) if how == "dies" else time.sleep(3600)
            _step(case, model, dense, slices)
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


def save_to_a_full_disk(rank: int, num_ranks: int, folder: Path) -> None:
    """Write what was trained where rank 0 may write only small files; each writes what it says."""
    ranks = join(rank, num_ranks, folder)
    case = draw_case(0, num_ranks)
    num_samples = len(case.labels)
    split = Split(torch.zeros(num_samples, 3, 28, 28, dtype=torch.uint8), case.labels)
    data = Dataset("zeros", split, split, tuple("abcde"))
    model = _load(case, 0, ranks, folder)
    part = RankPart(model, data, draw_minibatches(num_samples, num_samples, 0), FineTuneSettings())
    if rank == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        together(ranks, lambda: part.save_result(folder / "out"), "the writing")
    except (InputError, RankError) as error:
        (folder / f"said-{rank}").write_text(f"{type(error).__name__} {error}")
    close_ranks(ranks)


def come_alone(rank: int, num_ranks: int, folder: Path) -> None:
    """Wait for others that never come."""
    try:
        join(rank, num_ranks + 1, folder, timeout_s=2.0)
    except RankError as error:
        (folder / f"said-{rank}").write_text(f"{error.speaks} {error}")
