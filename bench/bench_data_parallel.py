"""A dense data-parallel step on two gloo ranks, ours beside torch's DistributedDataParallel.

By default ViT-S/16 at 112 pixels with random weights, 16 samples on each rank in two micro-batches,
AdamW. Both have the same shares, one thread for each rank, and run in turns, the one and the other
first, so that a busy machine slows them alike; the ratio is the median of those of the rounds.
Uneven shares: ``python -m bench.bench_data_parallel --shares 24,8``.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.models.build import build_model, shape_of
from runtime.models.optimizers import create_optimizer
from runtime.ranks.agreement import gather_arrays, meet
from runtime.ranks.job import Ranks, close_ranks, init_ranks
from runtime.ranks.rank_model import scatter_rank_model
from runtime.ranks.rank_slices import slice_rank_schedule
from runtime.ranks.rank_step import rank_forward_backward
from runtime.ranks.wave.rank_wave import RankBatch
from runtime.steady_settings import steady_process
from runtime.training.resting_rows import resting, update

TARGET = 1.05
MICROBATCHES_OF_A_RANK = 2

Step = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench_data_parallel", description=__doc__)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--shares", default="16,16", help="samples of each rank")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    shares = [int(share) for share in given.shares.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        ranks = [
            context.Process(target=_run, args=(rank, shares, given, folder))
            for rank in range(len(shares))
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()


def _run(rank: int, shares: list[int], given: argparse.Namespace, folder: str) -> None:
    steady_process()
    torch.set_num_threads(1)
    method = f"file://{Path(folder) / 'store'}"
    ranks = init_ranks("cpu", init_method=method, rank=rank, num_ranks=len(shares))
    steps = _steps(ranks, shares, given)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses = dict.fromkeys(steps, 0.0)
    for repeat in range(given.repeats + 1):
        for name, step in list(steps.items())[:: -1 if repeat % 2 else 1]:
            meet(ranks, "the benchmark")
            start = time.perf_counter()
            losses[name] = float(step())
            seconds[name].append(time.perf_counter() - start)
    slowest = {
        name: gather_arrays(ranks, np.array(own[1:]), "the benchmark").max(axis=0)
        for name, own in seconds.items()
    }
    if rank == 0:
        _print(slowest, losses, shares, given)
    close_ranks(ranks)


def _steps(ranks: Ranks, shares: list[int], given: argparse.Namespace) -> dict[str, Step]:
    """Ours and torch's, from the same weights on the same samples."""
    model = build_model(given.model, image_size=given.image_size, num_classes=10, seed=0)
    shape = shape_of(model)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(sum(shares), 3, given.image_size, given.image_size, generator=generator)
    labels = torch.randint(10, (sum(shares),), generator=generator)
    own = slice(sum(shares[: ranks.rank]), sum(shares[: ranks.rank + 1]))
    inputs, labels = inputs[own], labels[own]

    theirs = DistributedDataParallel(deepcopy(model), gradient_as_bucket_view=True)
    their_optimizer = create_optimizer(theirs, "adamw", lr=1e-3)

    def step_theirs() -> Tensor:
        their_optimizer.zero_grad()
        # DDP takes the mean over ranks; the mean over samples is wanted.
        loss = F.cross_entropy(theirs(inputs), labels) * (len(shares) * len(labels) / sum(shares))
        loss.backward()
        their_optimizer.step()
        return loss.detach()

    sizes = [n for share in shares for n in _halves(share)]
    workload = Workload(shape, partition_by_heads(shape, 1), tuple(sizes))
    replicas = [
        Replica(
            Placement(len(shares), (rank,) * workload.num_subnets, (rank,) * MICROBATCHES_OF_A_RANK)
        )
        for rank in range(len(shares))
    ]
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    part = scatter_rank_model(model, workload, replicas, ranks)
    slices = slice_rank_schedule(workload, replicas, dense, ranks.rank)
    our_optimizer = create_optimizer(part.module, "adamw", lr=1e-3)
    rests = resting(part.module, part.own_shards, workload, dense)
    batch = RankBatch(inputs, labels, torch.tensor(slices.num_samples))

    def step_ours() -> Tensor:
        loss = rank_forward_backward(part, batch, slices)
        update(our_optimizer, rests)
        return loss

    return {"d2ft": step_ours, "torch DDP": step_theirs}


def _halves(share: int) -> list[int]:
    return [len(part) for part in np.array_split(np.arange(share), MICROBATCHES_OF_A_RANK)]


def _print(
    slowest: dict[str, np.ndarray],
    losses: dict[str, float],
    shares: list[int],
    given: argparse.Namespace,
) -> None:
    table = Table("step", "median s", "quartiles s")
    for name, seconds in slowest.items():
        low, high = np.percentile(seconds, [25, 75])
        table.add_row(name, f"{np.median(seconds):.3f}", f"{low:.3f} to {high:.3f}")
    console = Console()
    console.print(
        f"{given.model} at {given.image_size} px, {shares} samples, loss {losses['d2ft']:.4f}"
    )
    console.print(table)
    ratio = statistics.median(slowest["d2ft"] / slowest["torch DDP"])
    console.print(f"d2ft / torch DDP, median over rounds: {ratio:.3f} (target at most {TARGET})")


if __name__ == "__main__":
    main()
