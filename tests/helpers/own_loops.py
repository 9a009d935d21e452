"""Plans of small models for loops of one's own, and what a rank of such a loop does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from d2ft_sched.cluster.cluster import Cluster, Device, Link
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.solved_plan import Plan, SolverRecord
from d2ft_sched.problem.budget import Budget
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import schedule_to_rows
from rank_cases import small_model
from rank_processes import join
from runtime.models.build import shape_of
from runtime.own_loop.apply_plan import apply_plan
from runtime.ranks.job import close_ranks

SOLVER = SolverRecord("dp", "given", "FEASIBLE", 0.0, None, 0.0, 0.0)
RANK_SAMPLES = ((2, 3), (1,))
"""Of the micro-batches of two replicas."""


def plan_of(workload: Workload, schedule: np.ndarray, shares: Sequence[int] | None = None) -> Plan:
    """With a replica of one device for each number of micro-batches in `shares`."""
    shares = shares or [workload.num_microbatches]
    devices = tuple(Device(f"device{i}", 1e12, 10**10, 1e11) for i in range(len(shares)))
    replicas = tuple(
        Replica(Placement(len(shares), (i,) * workload.num_subnets, (i,) * share), 1)
        for i, share in enumerate(shares)
    )
    links = tuple(Link("device0", device.name, 1e9, 1e-5) for device in devices[1:])
    rows = tuple(schedule_to_rows(schedule))
    return Plan(workload, Cluster("small", devices, links), replicas, Budget(), SOLVER, rows)


def rank_plan() -> Plan:
    """Of two replicas with different shares; both let heads rest, one leaves samples out."""
    shape = shape_of(small_model(0.3))
    samples = tuple(n for share in RANK_SAMPLES for n in share)
    workload = Workload(shape, partition_by_heads(shape, 2), samples, 8, 8)
    rows = np.array([[2, 0, 2], [3, 0, 3], [2, 0, 1], [3, 0, 0], [0, 0, 0], [1, 0, 2]])
    return plan_of(workload, rows, [len(share) for share in RANK_SAMPLES])


def rank_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """The mini-batch of `rank_plan`."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(6, 3, 28, 28, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(5, (6,), generator=generator)


def train_under_ddp(rank: int, num_ranks: int, folder: Path) -> None:
    """Three steps of a model under `DistributedDataParallel`; what it is then."""
    ranks = join(rank, num_ranks, folder)
    model = small_model(0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduled = apply_plan(model, rank_plan(), optimizer)
    wrapped = DistributedDataParallel(model)
    first = sum(sum(share) for share in RANK_SAMPLES[:rank])
    own = slice(first, first + scheduled.num_samples)
    inputs, labels = (part[own] for part in rank_batch())
    for _ in range(3):
        taken, targets = scheduled.take((inputs, labels))
        loss = F.cross_entropy(wrapped(taken), targets) * scheduled.loss_weight
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(model.state_dict(), folder / f"{rank}.safetensors")
    close_ranks(ranks)
